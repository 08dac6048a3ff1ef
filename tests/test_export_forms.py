# SPDX-License-Identifier: AGPL-3.0-or-later
"""The forms of an export as functions and alone in a trace; whole models in them: `test_export.py`."""

import itertools
import re
from unittest import mock

import onnxruntime
import pytest
import reference
import torch
from conftest import TORCH, learned, skip_if_onnx_runtime_lacks_deform, traced_to_onnx
from sample_forms import BORDERS, borders, case, sample_forms

from ultralytics_akconv import AKConv, akconv2d, functional, resample, sampling_points, sampling_positions
from ultralytics_akconv.exports import choose_form  # its import makes `deform_conv2d` known to torch
from ultralytics_akconv.functional import export_form, gather, taps
from ultralytics_akconv.functional.forms import FORMS
from ultralytics_akconv.functional.gather import COMPILED, PLAIN

forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
BETWEEN_PIXELS = sampling_points(5, "ring", "center")
CACHES = (taps.cached_base_positions, taps._last)


def layer_case(stride=2, bias=True, dtype=torch.float64):
    x, offset = case((2, 3, 7, 9), 5, stride, dtype=dtype)
    return x, offset, torch.randn(4, 3, 5, 1, dtype=dtype), torch.randn(4, dtype=dtype) if bias else None


@pytest.fixture(scope="module")
def defined():
    """What a form is given by stride, bias and border, in float64, with what the definition makes of it."""
    torch.manual_seed(0)
    cases = []
    for stride, bias, border in itertools.product((1, 2), (True, False), BORDERS):
        tensors = layer_case(stride, bias)
        settings = (BETWEEN_PIXELS, stride, border)
        x, offset, weight, bias_or_none = tensors
        expected = reference.akconv2d(x, offset, weight, BETWEEN_PIXELS, bias_or_none, stride, border)
        cases.append((tensors, settings, expected))
    return cases


@pytest.fixture(scope="module")
def defined_by_rounded_offsets():
    """The same in float32, with offsets of another dtype, whose rounding the definition sees."""
    torch.manual_seed(0)
    x, offset, weight, bias = layer_case(dtype=torch.float32)
    cases = []
    for dtype, border in itertools.product((torch.float16, torch.bfloat16, torch.float64), BORDERS):
        tensors = (x, offset.to(dtype), weight, bias)
        doubled = [tensor.double() for tensor in tensors]
        expected = reference.akconv2d(*doubled[:3], BETWEEN_PIXELS, doubled[3], 2, border)
        cases.append((tensors, (BETWEEN_PIXELS, 2, border), expected))
    return cases


def traced(exported, x, offset):
    """Sample as a trace does, by an exporter or by a compiler."""
    with mock.patch.multiple(functional, is_traced=lambda: True, is_exported=lambda: exported):
        return resample(x, offset, BETWEEN_PIXELS, 2)


@forms
@pytest.mark.filterwarnings("ignore:allow_ops_in_compiled_graph:ImportWarning")  # of einops beside torch 2.1
@pytest.mark.filterwarnings("error")  # whoever exports should not be warned of what is ours
def test_a_form_equals_the_definition_to_the_last_digits_of_float64(form, defined, close):
    for tensors, settings, expected in defined:
        close(form(*tensors, *settings), expected)


@forms
def test_a_form_takes_offsets_of_another_dtype_than_the_input(form, defined_by_rounded_offsets, close):
    for tensors, settings, expected in defined_by_rounded_offsets:
        out = form(*tensors, *settings)
        assert out.dtype == torch.float32
        close(out, expected)


@pytest.mark.parametrize("form", FORMS)
@borders
def test_every_form_of_an_export_equals_the_layer_on_and_off_the_map(form, border):
    between_pixels = [[0.5, -0.25], [0, 1], [1.75, 0], [-3, 2], [2, 2]]
    cases = [((9, 11), 1, "default"), ((9, 11), 2, between_pixels), ((9, 11), 3, between_pixels)]
    for size, stride, shape in [*cases, ((1, 7), 2, between_pixels), ((6, 1), 2, "default"), ((1, 1), 1, "default")]:
        layer = learned(AKConv(3, 4, 5, stride, border=border, shape=shape)).eval()
        with torch.no_grad(), export_form(lambda: form):
            traced = torch.jit.trace(layer, torch.randn(2, 3, *size), check_trace=False)
            x = torch.randn(2, 3, *size) * 5
            torch.testing.assert_close(traced(x), layer(x), rtol=1e-4, atol=1e-4)


def plain(x, offset, weight, bias, points, stride, border):
    return akconv2d(x, offset, weight, points, bias, stride, border)


@pytest.mark.parametrize("form", [*FORMS.values(), plain], ids=[*FORMS, "plain"])
def test_every_tensor_is_made_on_the_device_of_the_input(form):
    if form is FORMS["deform"] and TORCH < (2, 2):
        pytest.skip("the torchvision of torch 2.1 has no deform_conv2d for the meta device")
    x, offset, weight, bias = (tensor.float().to("meta") for tensor in layer_case())  # stands for any other device
    for border in BORDERS:
        out = form(x, offset, weight, bias, BETWEEN_PIXELS, 2, border)
        assert (out.device.type, out.shape) == ("meta", (2, 4, 4, 5)), border


@sample_forms
def test_samples_and_positions_are_made_on_the_device_of_the_input(sample):
    x, offset, *_ = (tensor.float().to("meta") for tensor in layer_case())
    for border in BORDERS:
        samples = sample(x, offset, BETWEEN_PIXELS, 2, border)
        assert (samples.device.type, samples.shape) == ("meta", (2, 3, 20, 5)), border
    assert sampling_positions(offset, BETWEEN_PIXELS, 2).device.type == "meta"


@pytest.mark.parametrize(("asked", "state"), [("is_traced", "is_compiling"), ("is_exported", "is_exporting")])
def test_a_compiler_and_an_exporter_are_told_apart_where_torch_tells_of_them(asked, state, monkeypatch):
    ask = getattr(functional, asked)
    assert not ask()
    monkeypatch.setattr(torch.compiler, state, lambda: True, raising=False)
    assert ask()
    monkeypatch.delattr(torch.compiler, state)  # as in torch 2.1
    assert not ask()
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)  # the exporters of every torch
    assert ask()


@forms
def test_a_form_of_an_export_leaves_the_caches_as_they_are(form):
    before = [cache.cache_info() for cache in CACHES]
    form(*layer_case(), BETWEEN_PIXELS, 2, "paper")
    assert [cache.cache_info() for cache in CACHES] == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_what_a_size_needs_is_made_once_and_a_trace_leaves_the_caches_as_they_are(dtype):
    x, offset, *_ = layer_case(dtype=dtype)
    resample(x, offset, BETWEEN_PIXELS, 2)
    made = [cache.cache_info() for cache in CACHES]
    resample(x, offset, BETWEEN_PIXELS, 2)
    before = [cache.cache_info() for cache in CACHES]
    assert [(info.hits, info.misses) for info in before] == [(info.hits + 1, info.misses) for info in made]
    for exported in (False, True):
        traced(exported, x, offset)
    assert [cache.cache_info() for cache in CACHES] == before


def test_a_cpu_sums_bags_in_its_own_dtypes_a_compiler_is_given_stored_indices_and_all_else_gathers(dtype):
    x, offset, *_ = layer_case(dtype=dtype)

    def given(sample):
        with mock.patch.object(functional, "gather_samples", wraps=gather.gather_samples) as spy:
            sample()
        return [call.kwargs.get("how", PLAIN) for call in spy.call_args_list]

    half = dtype in (torch.float16, torch.bfloat16)
    assert given(lambda: resample(x, offset, BETWEEN_PIXELS, 2)) == ([PLAIN] if half else [])
    assert given(lambda: resample(x.to("meta"), offset.to("meta"), BETWEEN_PIXELS, 2)) == [PLAIN]
    assert given(lambda: traced(True, x, offset)) == [PLAIN]
    assert given(lambda: traced(False, x, offset)) == [COMPILED]


def test_the_form_of_grid_sample_makes_no_integer_of_an_index():
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    with export_form(lambda: "grid"):
        graph = str(torch.jit.trace(layer, torch.randn(1, 3, 8, 8), check_trace=False).inlined_graph)
    indices = re.findall(r": (\w+)\(.* = aten::arange\(", graph)
    assert indices == ["Float", "Float"]


@pytest.mark.parametrize(("form", "width"), [("outer", "prim::NumToTensor"), ("outer-fixed", "prim::Constant")])
def test_the_outer_forms_widen_the_weights_and_one_of_them_has_the_size_as_a_constant(form, width):
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    with export_form(lambda: form):
        graph = torch.jit.trace(layer, torch.randn(1, 3, 8, 8), check_trace=False).inlined_graph
    assert len(graph.findAllNodes("aten::matmul")) == 4
    factors = [[value.node().kind() for value in node.inputs()] for node in graph.findAllNodes("aten::mul")]
    assert [pair for pair in factors if pair[0] == "aten::clamp"] == [["aten::clamp", width]] * 2  # low and high rows


def test_a_form_is_used_by_traces_within_its_context_alone():
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    x = torch.randn(1, 3, 8, 8)

    def operators():
        return str(torch.jit.trace(layer, x, check_trace=False).inlined_graph)

    with export_form(lambda: "grid"):
        assert "aten::grid_sampler" in operators()
        with pytest.raises(ValueError, match=", ".join(FORMS)), export_form(lambda: "circle"):
            operators()
    assert "aten::index_select" in operators()
    assert "aten::grid_sampler" not in operators()


def test_a_form_is_asked_for_by_traces_alone_and_gather_is_the_plain_expression(close):
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    x = torch.randn(1, 3, 8, 8)
    expected = layer(x)

    def never():
        raise AssertionError("asked for a form where nothing is traced")

    with export_form(never):
        close(layer(x), expected)
    with export_form(lambda: "gather"):
        graph = str(torch.jit.trace(layer, x, check_trace=False).inlined_graph)
    assert "aten::index_select" in graph and "grid_sampler" not in graph


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch does not tell of its exporter")
@pytest.mark.parametrize("strict", [False, True])
def test_a_form_is_used_by_the_exporter_of_programs_and_not_by_the_compiler(strict):
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    x = torch.randn(1, 3, 8, 8)

    def operators():
        graph = torch.export.export(layer, (x,), strict=strict).graph
        return {str(node.target) for node in graph.nodes if node.op == "call_function"}

    with torch.no_grad(), export_form(lambda: "lookup"):
        assert {"aten.embedding.default"} == operators() & {"aten.embedding.default", "aten.index_select.default"}
        counted = mock.Mock(return_value="circle")
        with export_form(counted):
            torch.compile(layer, backend="eager")(x)
        assert not counted.called
    assert "aten.index_select.default" in operators()


def test_the_form_of_lookups_counts_pixels_in_float32_as_long_as_that_is_exact(close, monkeypatch):
    x, offset, weight, bias = layer_case()
    last = gather._EXACT - 1
    assert int(torch.tensor(last, dtype=torch.float32)) == last
    with mock.patch.object(gather, "sampling_taps", wraps=taps.sampling_taps) as spy:
        exact = FORMS["lookup"](x, offset, weight, bias, BETWEEN_PIXELS, 2, "paper")
        monkeypatch.setattr(gather, "_EXACT", x[:, 0].numel() - 1)
        close(FORMS["lookup"](x, offset, weight, bias, BETWEEN_PIXELS, 2, "paper"), exact)
    assert [call.args[-1] for call in spy.call_args_list] == [torch.float32, torch.int32]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_form_of_lookups_reads_no_pixel_that_is_not_there(value):
    x, offset, weight, bias = layer_case()
    offset[0, 3, 1, 1] = value
    out = FORMS["lookup"](x, offset, weight, bias, BETWEEN_PIXELS, 2, "paper")  # a wrong index would raise
    torch.testing.assert_close(out, akconv2d(x, offset, weight, BETWEEN_PIXELS, bias, 2), equal_nan=True)
    assert out.isnan().sum() == (4 if value != value else 0)


@borders
def test_the_deformable_form_is_one_operator_in_onnx_and_equals_the_layer(border):
    form = choose_form("onnx", 19)
    files = []
    layers = [learned(AKConv(3, 4, 5, stride, border=border, shape="ring")).eval() for stride in (1, 2)]
    for layer in layers:
        with export_form(lambda: form):
            files.append(traced_to_onnx(layer, torch.randn(1, 3, 9, 11), 19))
        assert files[-1].count(b"DeformConv") >= 1
    skip_if_onnx_runtime_lacks_deform(19)
    for layer, file in zip(layers, files):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        x = torch.randn(1, 3, 9, 11) * 5
        (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_bias_comes_through_a_trace_in_every_form(form, close):
    x, offset, weight, bias = layer_case()

    def layer(x, offset):
        return akconv2d(x, offset, weight, BETWEEN_PIXELS, bias, 2)

    with export_form(lambda: form):
        traced = torch.jit.trace(layer, (x, offset), check_trace=False)
    close(traced(x, offset), layer(x, offset))


@sample_forms
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_the_gradients_of_many_samples_of_one_pixel_are_summed_in_float32(sample, half):
    x = torch.ones(1, 1, 64, 64, dtype=half, requires_grad=True)
    offset = torch.full((1, 2, 64, 64), -1e4, dtype=half)  # every sample reads the pixel at the top left
    sample(x, offset, ((0, 0),), 1, "clamp").sum().backward()
    assert x.grad[0, 0, 0, 0] == 64 * 64  # in float16 the sum would stay at 2048, in bfloat16 at 256
