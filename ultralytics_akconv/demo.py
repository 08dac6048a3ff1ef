# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files that the manual's page "Try it" runs in a browser: two models, ONNX Runtime, images and a list of them.

A model is the host's own ONNX file with three changes: the offsets of its AKConv layers are outputs too, what the host
notes about the training (its path among it) is left out, and weights are stored in float16 where nothing is lost by
that. A trained checkpoint holds float16, of which the exporter makes float32 by multiplying each output channel by the
scale of its BatchNorm; so float16 weights and a scale a channel are the same numbers in half the bytes.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from ultralytics import YOLO

from ultralytics_akconv.files import write_whole
from ultralytics_akconv.layers import akconvs
from ultralytics_akconv.plots import image_samples

if TYPE_CHECKING:
    import onnx

RUNTIME = {"script": "ort.wasm.min.js", "module": "ort-wasm-simd-threaded.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}
CONFIDENCE = 0.1  # of the least sure box in the file; the page's slider begins there
_KEPT = ("names", "stride", "task", "imgsz")  # of the host's metadata: what runs the model, not what made it
_SMALL = 256  # numbers; below, two more nodes weigh more than is saved


def build_demo(akconv: Path, plain: Path, images: Sequence[Path], runtime: Path, out: Path) -> dict[str, Any]:
    """Write all that the page loads into a folder, which is replaced as a whole, and return the list of it.

    Args:
        akconv: A trained detector with AKConv layers.
        plain: The plain model, trained on the same classes at the same image size.
        images: Images that the page offers.
        runtime: Folder that holds the files of `RUNTIME`: `dist` of the npm package onnxruntime-web.
        out: Folder to write.

    Raises:
        FileNotFoundError: If one of the files does not exist.
        ValueError: If the two models do not belong together, one has AKConv layers where it should not, or its training
            has not ended.
    """
    wanted = [akconv, plain, *images, *(runtime / name for name in RUNTIME.values())]
    for file in wanted:
        if not file.is_file():
            raise FileNotFoundError(f"'{file}' does not exist")
    models = {"akconv": YOLO(akconv), "plain": YOLO(plain)}
    names, size = _in_common(models)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        part = Path(folder) / out.name
        part.mkdir()
        for file in wanted[2:]:
            shutil.copyfile(file, part / file.name)
        checkpoints = {"akconv": akconv, "plain": plain}
        listed = {name: _add_model(file, size, part / f"{name}.onnx") for name, file in checkpoints.items()}
        layers = _layers(models["akconv"].model, size)
        demo = {
            "imgsz": size,
            "stride": int(models["akconv"].model.stride.max()),
            "names": names,
            "images": [file.name for file in images],
            "layers": layers,
            "layer": max(layers, key=_depth(layers))["name"],  # that sees most through earlier ones
            "models": listed,
            "runtime": {**RUNTIME, "wasm": _sized(part / RUNTIME["wasm"])},
        }
        write_whole(part / "demo.json", json.dumps(demo))
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    return demo


def _in_common(models: dict[str, YOLO]) -> tuple[list[str], int]:
    """Return the names of the classes and the image size of both models, or raise the error that says what is wrong."""
    for model in models.values():
        if model.task != "detect":
            raise ValueError(f"'{model.ckpt_path}' must be a detector, its task is {model.task}")
        epoch = (model.ckpt or {}).get("epoch", -1)  # which the host sets to -1 when it strips a checkpoint at the end
        if epoch not in (-1, None):
            raise ValueError(
                f"'{model.ckpt_path}' is of a training that has not ended, it is from epoch {epoch + 1}: "
                "let it end, or remove its folder to train anew"
            )
    has = {name: bool(akconvs(model.model)) for name, model in models.items()}
    if has != {"akconv": True, "plain": False}:
        raise ValueError(f"the first model must have AKConv layers and the second none, they have: {has}")
    names, sizes = ([pick(model) for model in models.values()] for pick in (_names, _image_size))
    if names[0] != names[1]:
        raise ValueError(f"the two models must know the same classes, got {names[0]} and {names[1]}")
    if sizes[0] != sizes[1]:
        raise ValueError(f"the two models must be trained at one image size, got {sizes[0]} and {sizes[1]}")
    return names[0], sizes[0]


def _names(model: YOLO) -> list[str]:
    return [model.names[k] for k in sorted(model.names)]


def _image_size(model: YOLO) -> int:
    size = model.overrides.get("imgsz")
    if not isinstance(size, int):
        raise ValueError(f"'{model.ckpt_path}' does not say at which square image size it was trained, but {size!r}")
    return size


def _depth(layers: list[dict[str, Any]]) -> Any:
    """Return a function that counts the layers before a layer."""
    parents = {layer["name"]: layer["parent"] for layer in layers}

    def depth(layer: dict[str, Any]) -> int:
        count, name = 0, layer["parent"]
        while name:
            count, name = count + 1, parents[name]
        return count

    return depth


def _layers(network: nn.Module, size: int) -> list[dict[str, Any]]:
    """Return what the page must know of the AKConv layers beside their offsets.

    A layer's `parent` is the last one before it whose output has the pixels of the map that it reads: what lies between
    changes the channels, and widens what a pixel sees, but not where it is.
    """
    samples = image_samples(network, np.full((size, size, 3), 114, np.uint8), imgsz=size)
    layers: list[dict[str, Any]] = []
    for layer in samples.layers:
        before = [other["name"] for other in layers if other["step"] * other["stride"] == layer.step]
        layers.append(
            {
                "name": layer.name,
                "step": layer.step,
                "stride": layer.stride,
                "points": network.get_submodule(layer.name).points,
                "norms": [round(float(norm), 4) for norm in layer.norms],
                "parent": before[-1] if before else None,
            }
        )
    return layers


def _sized(file: Path) -> dict[str, Any]:
    """Return the name of a file, its bytes, and those that a server sends which compresses."""
    content = file.read_bytes()
    return {"file": file.name, "bytes": len(content), "gzipped": len(gzip.compress(content, 6))}


def _add_model(checkpoint: Path, size: int, file: Path) -> dict[str, Any]:
    """Export a model for the page and return what the list says of it."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:  # the host writes beside the checkpoint
        copy = shutil.copyfile(checkpoint, Path(folder) / "model.pt")
        exported = YOLO(copy).export(format="onnx", imgsz=size, dynamic=True, nms=True, conf=CONFIDENCE, verbose=False)
        content = onnx.load(exported)
    slim(content, YOLO(checkpoint).model)
    onnx.checker.check_model(content)
    write_whole(file, content.SerializeToString())
    return _sized(file)


def slim(content: onnx.ModelProto, network: nn.Module) -> None:
    """Add the offsets to the outputs of an exported model, strip it of its history and store its weights in float16.

    Args:
        content: What the host's exporter has made of `network`; it is changed.
        network: The network before its BatchNorm layers were fused, as a checkpoint holds it.
    """
    kept = [(p.key, p.value) for p in content.metadata_props if p.key in _KEPT]
    del content.metadata_props[:]
    for key, value in kept:
        content.metadata_props.add(key=key, value=value)
    content.doc_string = content.graph.doc_string = ""
    del content.graph.value_info[:]  # shapes in between, a quarter of the file, which runtimes infer by themselves
    for node in content.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    _add_offsets(content.graph, network)
    _store_half(content.graph, network)


def _add_offsets(graph: onnx.GraphProto, network: nn.Module) -> None:
    """Give the offsets of every AKConv layer as an output that has the layer's name."""
    from onnx import TensorProto, helper

    for name, layer in akconvs(network).items():
        weight = f"{name}.p_conv.weight"
        [offsets] = (node.output[0] for node in graph.node if node.op_type == "Conv" and node.input[1].endswith(weight))
        graph.node.append(helper.make_node("Identity", [offsets], [name], name=f"{name}/offsets"))
        shape = ["batch", 2 * layer.num_param, f"{name}.h", f"{name}.w"]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _store_half(graph: onnx.GraphProto, network: nn.Module) -> None:
    """Store every weight that is float16 times a scale a channel as just that; the runtime multiplies once, at load."""
    from onnx import TensorProto, helper, numpy_helper

    weights = _unfused(network)
    nodes = []
    for tensor in list(graph.initializer):
        weight, scale = weights.get(tensor.name.removeprefix("model."), (None, None))  # the host wraps it for the NMS
        if weight is None or weight.size < _SMALL:
            continue
        half = weight.astype(np.float16)
        fused = numpy_helper.to_array(tensor)
        lossless = np.array_equal(half.astype(np.float32), weight) and fused.shape == weight.shape
        if not lossless or not np.allclose(weight * scale, fused, rtol=1e-6, atol=1e-12):
            continue
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(half, f"{tensor.name}.half"))
        plain = bool((scale == 1).all())
        wide = tensor.name if plain else f"{tensor.name}.wide"
        nodes.append(helper.make_node("Cast", [f"{tensor.name}.half"], [wide], to=TensorProto.FLOAT))
        if not plain:
            graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{tensor.name}.scale"))
            nodes.append(helper.make_node("Mul", [wide, f"{tensor.name}.scale"], [tensor.name]))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _unfused(network: nn.Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the weight of every convolution, with the scale (C, 1, 1, 1) that its BatchNorm puts on it when fused."""
    modules = dict(network.named_modules())
    found = {}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            norm = modules.get(f"{name.rpartition('.')[0]}.bn") if name.endswith(".conv") else None
            scale = np.ones(module.out_channels, np.float32)
            if isinstance(norm, nn.BatchNorm2d):
                scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().float().numpy()
            found[f"{name}.weight"] = module.weight.detach().float().numpy(), scale.reshape(-1, 1, 1, 1)
    return found
