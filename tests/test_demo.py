# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the page "Try it" runs: the files that `make demo` writes, and the arithmetic around the model, by `node`."""

import json
import random
import subprocess

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, built, skip_if_onnx_needs_onnxscript, yolov8_dict
from exporting import checkpoint, settled
from pages import needs_node, run_script
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.utils.ops import scale_boxes

from ultralytics_akconv import write_checkpoint
from ultralytics_akconv.demo import RUNTIME, build_demo
from ultralytics_akconv.plots import image_samples
from ultralytics_akconv.plots.samples import View

onnx = pytest.importorskip("onnx", reason="onnx is in the extra `dev`")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `dev`")
SIDE = 96


def stored(model, file):
    """Save a model as a training leaves it: float16, with the image size, and -1 for the epoch."""
    model.args = {"imgsz": SIDE, "task": "detect"}
    return write_checkpoint(model.half(), file)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A model with learned offsets, its plain twin, an image, and three files in place of the runtime."""
    folder = tmp_path_factory.mktemp("secret-training-path")
    torch.manual_seed(0)
    akconv = YOLO(checkpoint()).model.float()
    plain = settled(built({**yolov8_dict(name=None), "nc": 3}))
    plain.names = akconv.names
    cv2.imwrite(str(folder / "cells.jpg"), np.full((60, 80, 3), 90, np.uint8))
    (folder / "dist").mkdir()
    for name in RUNTIME.values():
        (folder / "dist" / name).write_bytes(name.encode() * 100)
    return {
        "akconv": stored(akconv, folder / "akconv.pt"),
        "plain": stored(plain, folder / "plain.pt"),
        "images": [folder / "cells.jpg"],
        "runtime": folder / "dist",
    }


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    """The folder that is built of them, and the list of it."""
    skip_if_onnx_needs_onnxscript()
    out = tmp_path_factory.mktemp("demo") / "assets/try"
    return out, build_demo(**parts, out=out)


@pytest.mark.slow
def test_the_folder_holds_what_its_list_says(made):
    out, demo = made
    assert json.loads((out / "demo.json").read_text("utf-8")) == json.loads(json.dumps(demo))
    listed = {"demo.json", *demo["images"], *RUNTIME.values(), "akconv.onnx", "plain.onnx"}
    assert {file.name for file in out.iterdir()} == listed
    assert [file.name for file in out.parent.iterdir()] == ["try"]
    for file in (demo["runtime"]["wasm"], *demo["models"].values()):
        assert (out / file["file"]).stat().st_size == file["bytes"] > file["gzipped"]


@pytest.mark.slow
def test_the_layers_of_the_list_are_those_of_the_model(made, parts):
    _, demo = made
    samples = image_samples(parts["akconv"], parts["images"][0], imgsz=SIDE).layers
    assert [(layer["name"], layer["step"], layer["stride"]) for layer in demo["layers"]] == [
        (layer.name, layer.step, layer.stride) for layer in samples
    ]
    parents = {layer["name"]: layer["parent"] for layer in demo["layers"]}
    assert parents == {
        "model.1": None,
        "model.3": "model.1",
        "model.5": "model.3",
        "model.7": "model.5",
        "model.16": "model.3",
        "model.19": "model.16",
    }
    assert demo["layer"] == "model.7"
    network = YOLO(parts["akconv"]).model
    for layer in demo["layers"]:
        assert tuple(map(tuple, layer["points"])) == network.get_submodule(layer["name"]).points


@pytest.mark.slow
@pytest.mark.parametrize("name", ["akconv", "plain"])
def test_weights_in_float16_lose_nothing_and_nothing_tells_of_the_training(made, parts, name):
    out, _ = made
    file = out / f"{name}.onnx"
    model = onnx.load(file)
    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= 1024]
    assert len(large) > 40
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}
    content = file.read_bytes()
    for trace in ("secret-training-path", str(ROOT), "/home", "/root", "/tmp"):
        assert trace.encode() not in content, trace
    assert {prop.key for prop in model.metadata_props} <= {"names", "stride", "task", "imgsz"}
    x = np.random.default_rng(0).random((1, 3, 64, SIDE), np.float32)
    session = onnxruntime.InferenceSession(str(file))
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"images": x})))
    network = YOLO(parts[name]).model.float().eval()
    offsets = {}
    for layer in [n for n in outputs if n != "output0"]:
        module = network.get_submodule(layer)
        module.register_forward_pre_hook(lambda m, args, n=layer: offsets.update({n: m.offsets(args[0]).detach()}))
    with torch.no_grad():
        network(torch.from_numpy(x))
    assert len(offsets) == (6 if name == "akconv" else 0)
    for layer, expected in offsets.items():
        np.testing.assert_allclose(outputs[layer], expected.numpy(), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_failure_leaves_the_folder_that_was_there(made, parts, monkeypatch):
    out, _ = made
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ultralytics_akconv.demo._add_model", fail)
    with pytest.raises(OSError, match="No space left"):
        build_demo(**parts, out=out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [file.name for file in out.parent.iterdir()] == ["try"]


def test_models_that_do_not_belong_together_are_refused(parts, tmp_path):
    out = tmp_path / "try"
    with pytest.raises(ValueError, match="the first model must have AKConv layers and the second none"):
        build_demo(parts["plain"], parts["akconv"], parts["images"], parts["runtime"], out)
    with pytest.raises(FileNotFoundError, match=r"ort\.wasm\.min\.js' does not exist"):
        build_demo(**{**parts, "runtime": tmp_path}, out=out)
    other = YOLO(parts["plain"]).model
    other.args = {"imgsz": 64, "task": "detect"}
    with pytest.raises(ValueError, match="trained at one image size, got 96 and 64"):
        build_demo(**{**parts, "plain": write_checkpoint(other, tmp_path / "small.pt")}, out=out)
    other.args = {"imgsz": [96, 64], "task": "detect"}
    with pytest.raises(ValueError, match=r"does not say at which square image size it was trained, but \[96, 64\]"):
        build_demo(**{**parts, "plain": write_checkpoint(other, tmp_path / "oblong.pt")}, out=out)
    other.args, other.names = {"imgsz": SIDE, "task": "detect"}, {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ValueError, match="must know the same classes"):
        build_demo(**{**parts, "plain": write_checkpoint(other, tmp_path / "named.pt")}, out=out)
    unfinished = torch.load(parts["plain"], weights_only=False)
    torch.save({**unfinished, "epoch": 3}, tmp_path / "unfinished.pt")
    with pytest.raises(ValueError, match="of a training that has not ended, it is from epoch 4"):
        build_demo(**{**parts, "plain": tmp_path / "unfinished.pt"}, out=out)
    assert not out.exists()


def test_neither_models_nor_the_runtime_are_kept_in_git():
    files = [f"docs/assets/try/{name}" for name in (*RUNTIME.values(), "akconv.onnx", "demo.json", "cells.jpg")]
    done = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip(f"this is no checkout of git: {done.stderr.strip()}")
    assert done.stdout.split() == files


# ---- The arithmetic around the model ---------------------------------------------------------------------------------

SIZES = [(480, 640), (375, 500), (667, 1000), (150, 200), (480, 641), (100, 100), (77, 33), (9, 2000), (8, 8)]


def pictures(height, width, seed=0):
    """Return noise, where the rounding of every pixel shows, as RGB."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@needs_node
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_becomes_the_network_s_input_to_the_last_bit(size):
    rgb = pictures(*size)
    body = """
    const rgba = new Uint8ClampedArray(input.rgb.length / 3 * 4);
    for (let k = 0; k < input.rgb.length; k += 1) rgba[4 * Math.floor(k / 3) + k % 3] = input.rgb[k];
    const view = page.place(input.size[0], input.size[1], 320, 32);
    return [view, [...page.asInput(rgba, view)]];
    """
    [[view, values]] = run_script("image.js", body, [{"rgb": rgb.flatten().tolist(), "size": size}])
    expected = LetterBox((320, 320), auto=True, stride=32)(image=np.ascontiguousarray(rgb))
    assert view["input"] == list(expected.shape[:2])
    actual = np.array(values, np.float32).reshape(3, *view["input"])
    np.testing.assert_array_equal(actual, expected.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


@needs_node
def test_an_image_lies_on_the_input_where_the_host_puts_it():
    rng = random.Random(0)
    sizes = [(rng.randint(8, 4000), rng.randint(8, 4000)) for _ in range(300)]
    body = "const v = page.place(...input, 320, 32); return v"
    letterbox = LetterBox((320, 320), auto=True, stride=32)
    for size, view in list(zip(sizes, run_script("image.js", body, sizes)))[:60]:
        white = letterbox(image=np.full((*size, 3), 255, np.uint8))[..., 0] == 255
        rows, cols = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        assert view["input"] == list(white.shape), size
        assert view["pad"] == [rows[0], cols[0]], size
        assert view["gain"] == [len(rows) / size[0], len(cols) / size[1]], size


@needs_node
def test_clicks_and_coordinates_are_those_of_the_package():
    rng = random.Random(1)
    cases = []
    for _ in range(300):
        size = (rng.randint(8, 3000), rng.randint(8, 3000))
        layer = {"step": rng.choice([2, 4, 8, 16]), "stride": 2}
        cases.append({"size": size, "layer": layer, "dims": [1, 10, 5, 6], "at": [rng.randrange(n) for n in size]})
    body = """
    const view = page.place(...input.size, 320, 32);
    const pixel = page.outputPixel(view, input.layer, {dims: input.dims}, input.at);
    return {view, pixel, there: page.toInput(view, input.at), back: page.toImage(view, page.toInput(view, input.at))};
    """
    for case, answer in zip(cases, run_script("image.js", body, cases)):
        view = View(tuple(answer["view"]["gain"]), tuple(map(float, answer["view"]["pad"])))
        there = view.to_input(*case["at"])
        assert answer["there"] == list(there)
        spacing = case["layer"]["step"] * 2
        assert answer["pixel"] == [min(max(round(q / spacing), 0), n - 1) for q, n in zip(there, case["dims"][2:])]
        assert answer["back"] == pytest.approx(case["at"], abs=1e-9)


@needs_node
def test_halves_are_rounded_to_the_even_one():
    values = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999999999999994, 2.5000000001, -7.2, 1e9 + 0.5]
    assert run_script("image.js", "return page.roundEven(input)", values) == [round(value) for value in values]


@needs_node
def test_boxes_lie_on_the_image_where_predict_puts_them():
    rng = random.Random(2)
    cases = []
    for size in SIZES:
        rows = [[*(rng.uniform(-20, 340) for _ in range(4)), rng.random(), rng.randrange(3)] for _ in range(8)]
        cases.append({"size": size, "rows": [*rows, [0.0] * 6]})
    body = """
    const view = page.place(...input.size, 320, 32);
    const output = {dims: [1, input.rows.length, 6], data: Float64Array.from(input.rows.flat())};
    return [view.input, page.boxes(output, view)];
    """
    for case, (shape, found) in zip(cases, run_script("image.js", body, cases)):
        rows = torch.tensor(case["rows"][:-1], dtype=torch.float64)
        rows = rows[rows[:, 4].argsort(descending=True)]
        expected = scale_boxes(tuple(shape), rows[:, :4].clone(), case["size"])
        assert len(found) == 8
        torch.testing.assert_close(
            torch.tensor([box["box"] for box in found], dtype=torch.float64), expected, rtol=0, atol=1e-4
        )
        assert [(box["confidence"], box["kind"]) for box in found] == [(row[4], row[5]) for row in rows.tolist()]
