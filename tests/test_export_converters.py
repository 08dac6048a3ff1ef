# SPDX-License-Identifier: AGPL-3.0-or-later
"""Formats whose converters are heavy, each skipped where its own are not installed, and the rules X2Paddle is given."""

import sys
import types

import numpy as np
import onnx
import pytest
import torch
from conftest import layers_of, learned, traced_to_onnx
from exporting import assert_equal_numbers, exported, needed, precision
from ultralytics import YOLO

from ultralytics_akconv import AKConv
from ultralytics_akconv.exports import choose_form
from ultralytics_akconv.functional import export_form
from ultralytics_akconv.paddle import teach_x2paddle

CALIBRATION = "calibration_image_sample_data_20x128x128x3_float32.npy"  # the host downloads it for onnx2tf, else


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["executorch", "litert", "paddle", "saved_model"])
def test_a_model_exported_by_a_heavy_converter_equals_the_model(format_, tmp_path, monkeypatch):
    needed(format_)
    monkeypatch.chdir(tmp_path)
    np.save(CALIBRATION, np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32))
    assert_equal_numbers(exported(format_))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_tensorflow_in_eight_bits_equals_the_model(batch, tmp_path, monkeypatch, mini_dataset):
    needed("saved_model")
    monkeypatch.chdir(tmp_path)
    np.save(CALIBRATION, np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32))
    file = exported("saved_model", data=str(mini_dataset), batch=batch, **precision(8))
    assert_equal_numbers(file, [(batch, 3, 64, 64)] * 3)  # its SavedModel stays float32


def mixed_up(form, batch):
    """Return the shapes of sums and products in ONNX, of a layer on a square map, two axes of which are of one size."""
    layer = learned(AKConv(3, 4, 5, 2, shape="ring", origin="center", act=False)).eval()
    with torch.no_grad(), export_form(lambda: form):
        file = traced_to_onnx(layer, torch.randn(batch, 3, 16, 16), 17)
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(file)).graph
    shapes = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.value_info}
    binary = [shapes[node.output[0]] for node in graph.node if node.op_type in ("Add", "Sub", "Mul")]
    assert len(binary) > 10
    return [shape for shape in binary if len(set(shape) - {1}) < len([size for size in shape if size != 1])]


@pytest.mark.parametrize("batch", [1, 2])
def test_tensorflow_gets_a_form_without_axes_of_one_size_which_its_converter_mixes_up(batch):
    assert mixed_up("gather", batch)
    assert mixed_up(choose_form("saved_model"), batch) == []


@pytest.mark.slow
def test_coreml_converts_a_model(tmp_path):
    needed("coreml")
    if tuple(int(part) for part in np.__version__.split(".")[:2]) > (2, 3):
        pytest.skip(f"coremltools makes scalars of arrays, which numpy refuses from 2.4 on; numpy is {np.__version__}")
    import coremltools

    yolo = YOLO("yolov8n-akconv.yaml")
    for layer in layers_of(yolo.model):
        learned(layer)
    yolo.model.pt_path = str(tmp_path / "model.pt")
    file = yolo.export(format="coreml", imgsz=64, verbose=False)
    program = coremltools.models.MLModel(str(file), skip_model_load=True).get_spec().mlProgram
    (block,) = program.functions["main"].block_specializations.values()
    gathers = [operation for operation in block.operations if operation.type == "gather"]
    assert len(gathers) >= 4 * len(layers_of(yolo.model))


class Mapper:
    """The part of X2Paddle's mapper that a rule uses, over a traced graph."""

    def __init__(self, graph):
        self.nodes = {output.debugName(): node for node in graph.nodes() for output in node.outputs()}
        self.attrs = {
            name: node.output().toIValue() for name, node in self.nodes.items() if node.kind() == "prim::Constant"
        }
        self.pytorch_params = {name: None for name, node in self.nodes.items() if node.kind() == "prim::GetAttr"}

    def normalize_scope_name(self, node):
        return node.scopeName()

    def _get_outputs_name(self, node):
        return [output.debugName() for output in node.outputs()]

    def _get_inputs_name(self, node):
        return [value.debugName() for value in node.inputs()], [value.node() for value in node.inputs()]

    def _check_input(self, graph, node, name, outputs, scope):
        if node.kind() == "prim::GetAttr":
            outputs.append(name)


class Layers(list):
    """A Paddle graph that keeps what was added to it."""

    def add_layer(self, kernel, inputs, outputs, **attributes):
        self.append((kernel, inputs, outputs, attributes))


@pytest.fixture
def rules(monkeypatch):
    """The module in which X2Paddle finds its rules, here with two of its own that name what they were asked for."""
    names = ["x2paddle", "x2paddle.op_mapper", "x2paddle.op_mapper.pytorch2paddle"]
    modules = {name: types.ModuleType(name) for name in names}
    aten = types.ModuleType(f"{names[-1]}.aten")
    modules[names[-1]].aten = aten
    for name, module in {**modules, aten.__name__: aten}.items():
        monkeypatch.setitem(sys.modules, name, module)
    aten.aten_embedding = aten.aten_floor = lambda mapper, graph, node: "own"
    teach_x2paddle()
    return aten


def translated(layer, x, rules):
    """Return what the rules make of a traced layer: of a name of a rule, what it returned and what it added."""
    with torch.no_grad(), export_form(lambda: choose_form("paddle")):
        graph = torch.jit.trace(layer, x, check_trace=False).inlined_graph
    torch._C._jit_pass_constant_propagation(graph)  # as X2Paddle does first
    mapper, layers, returned = Mapper(graph), Layers(), []
    for node in graph.nodes():
        rule = getattr(rules, node.kind().replace("::", "_"), None)
        if rule:
            returned.append((node.kind(), rule(mapper, layers, node)))
    return returned, layers


def test_x2paddle_is_given_rules_for_what_it_cannot_translate_of_a_layer(rules):
    returned, layers = translated(learned(AKConv(3, 4, 5, 2)).eval(), torch.randn(1, 3, 9, 11), rules)
    kernels = [kernel for kernel, *_ in layers]
    assert kernels == ["paddle.scale", "paddle.ceil", "paddle.scale"] + ["paddle.nn.functional.embedding"] * 4
    (_, x, negative, to_negative), (_, of, ceiling, _), (_, back, floor, from_negative) = layers[:3]
    assert (to_negative["scale"], from_negative["scale"]) == (-1, -1)
    assert (of, back) == ({"x": negative[0]}, {"x": ceiling[0]})
    assert returned[0] == ("aten::floor", ([x["x"]], floor))
    tables = {inputs["weight"] for _, inputs, *_ in layers[3:]}
    assert len(tables) == 1 and len({inputs["x"] for _, inputs, *_ in layers[3:]}) == 4  # corners of one table
    assert returned[1] == ("aten::embedding", ([*tables, layers[3][1]["x"]], layers[3][2]))


def test_x2paddle_keeps_its_own_rule_where_the_table_is_a_parameter(rules):
    returned, layers = translated(torch.nn.Embedding(4, 3), torch.tensor([1, 2]), rules)
    assert (returned, layers) == ([("aten::embedding", "own")], [])


class Floor(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3))

    def forward(self, x):
        return x + self.weight.floor()


def test_a_rule_writes_the_parameter_that_it_reads_into_the_scope_of_its_layer(rules):
    returned, layers = translated(torch.nn.Sequential(Floor()), torch.randn(3), rules)
    ((kind, (read, written)),) = returned
    assert (kind, written) == ("aten::floor", [*layers[2][2], *read])
    assert {attributes["scope_name"] for *_, attributes in layers} == {"__module.0"}


def test_x2paddle_is_given_its_rules_once(rules):
    given = dict(vars(rules))
    teach_x2paddle()
    assert dict(vars(rules)) == given
