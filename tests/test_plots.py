# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures: that every mark lies on the image pixel it stands for, what is drawn, and how wrong input is refused."""

import cv2
import numpy as np
import pytest
import torch
from conftest import built, layers_of, yolov8_dict

from ultralytics_akconv import sampling_points
from ultralytics_akconv.cli import main
from ultralytics_akconv.plots import (
    GALLERY,
    image_samples,
    plot_field,
    plot_histogram,
    plot_offsets,
    plot_shapes,
    plot_training,
)
from ultralytics_akconv.plots.samples import _as_input

SIDE = 64


def with_offset(row, col):
    """A detect model whose every sample is moved by the same (row, col) map pixels."""
    network = built(yolov8_dict())
    for layer in layers_of(network):
        with torch.no_grad():
            layer.p_conv.bias.copy_(torch.tensor([row] * 5 + [col] * 5))
    return network


def plain_image(height=64, width=128):
    return np.full((height, width, 3), 90, np.uint8)


@pytest.fixture
def image_file(tmp_path):
    file = tmp_path / "image.png"
    cv2.imwrite(str(file), plain_image())
    return file


def test_known_offsets_lie_on_known_image_pixels():
    """128 x 64 at 64 px: gain 1/2, no padding. Layer 3 reads a map of a quarter of the input, with stride 2."""
    (layer,) = image_samples(with_offset(0.25, -0.5), plain_image(), 3, SIDE).layers
    assert (layer.name, layer.size, layer.step, layer.stride) == ("model.3", (8, 16), 4, 2)
    i, j = 2, 5
    y, x = layer.to_image(layer.rows[:, i, j], layer.cols[:, i, j])
    for n, (row, col) in enumerate(sampling_points(5)):
        map_row, map_col = 2 * i + row + 0.25, 2 * j + col - 0.5
        assert float(y[n]) == pytest.approx((4 * map_row + 0.5) * 2 - 0.5)
        assert float(x[n]) == pytest.approx((4 * map_col + 0.5) * 2 - 0.5)


def test_the_worked_example_of_the_docstring_holds():
    (layer,) = image_samples(with_offset(0.0, 0.0), plain_image(960, 1280), 5, 640).layers
    assert layer.step == 8
    y, x = layer.to_image(torch.tensor(10.0), torch.tensor(20.0))
    assert (float(y), float(x)) == (160.5, 320.5)


@pytest.mark.parametrize("name", ["yolov8n-akconv.yaml", "yolov8n-cls-akconv.yaml"])
@pytest.mark.parametrize("height, width", [(90, 200), (200, 90), (33, 47), (64, 64)])
def test_a_spot_on_the_image_is_found_where_the_network_sees_it(name, height, width):
    from ultralytics import YOLO

    image = np.zeros((height, width, 3), np.uint8)
    row, col = height // 2 + 3, width // 2 - 4  # a spot in the middle, which a classifier's crop keeps
    image[row - 2 : row + 3, col - 2 : col + 3] = 255
    tensor, view = _as_input(image, SIDE, YOLO(name).model)
    spot = tensor[0, 0].double()
    spot = spot * (spot > 114.5 / 255)  # without the grey of the padding
    rows = (spot.sum(1) * torch.arange(spot.shape[0])).sum() / spot.sum()
    cols = (spot.sum(0) * torch.arange(spot.shape[1])).sum() / spot.sum()
    y, x = view.to_image(rows, cols)
    assert float(y) == pytest.approx(row, abs=0.6 / view.gain[0] * 0.5 + 0.2)
    assert float(x) == pytest.approx(col, abs=0.6 / view.gain[1] * 0.5 + 0.2)
    assert view.to_input(float(y), float(x)) == pytest.approx((float(rows), float(cols)))


def test_marks_are_drawn_at_the_samples_and_the_output_pixel_nearest_to_the_request():
    figure = plot_offsets(with_offset(0.25, -0.5), plain_image(), 3, at=(81, 33), imgsz=SIDE)
    initial, learned, anchor = (c.get_offsets() for c in figure.axes[0].collections)
    # Output pixels of layer 3 lie 16 image pixels apart: the nearest to (81, 33) is (5, 2), at (80.5, 32.5).
    assert np.allclose(anchor, [[80.5, 32.5]])
    points = np.array([(col, row) for row, col in sampling_points(5)])
    assert np.allclose(initial, 80.5 * np.array([1, 0]) + 32.5 * np.array([0, 1]) + 8 * points)
    assert np.allclose(learned - initial, [[-4, 2]] * 5)


def test_points_are_as_large_as_their_weights_and_red_off_the_map():
    network = with_offset(0.0, 100.0)
    with torch.no_grad():
        layers_of(network)[1].conv.conv.weight[:, :, 2] *= 3
    axes = plot_offsets(network, plain_image(), 3, at=(40, 20), imgsz=SIDE).axes[0]
    learned = axes.collections[1]
    assert np.argmax(learned.get_sizes()) == 2
    red, green, blue, _ = learned.get_facecolor()[0]
    assert red > max(green, blue)


def test_the_field_shows_the_mean_displacement_and_its_way():
    figure = plot_field(with_offset(1.5, -2.0), plain_image(), [3, "model.5"], SIDE)
    panel = figure.axes[0]
    (shown,) = panel.images[1:]
    assert np.allclose(shown.get_array(), 2.5)
    (arrows,) = panel.collections
    assert np.allclose(arrows.V, 1.5) and np.allclose(arrows.U, -2.0)
    assert arrows.angles == "xy"  # down is down on an image, whose rows run downwards
    assert [ax.get_title().split(",")[0] for ax in figure.axes[:2]] == ["model.3", "model.5"]


def test_the_histogram_counts_every_sample_and_those_off_the_map():
    figure = plot_histogram(with_offset(0.0, 1000.0), plain_image(), imgsz=SIDE)
    assert len(figure.axes) == 6
    for ax in figure.axes:
        assert "100.0% of samples off the map" in ax.get_title()
        assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1)
        assert ax.get_legend().get_texts()[0].get_text() == "mean 1000.00 px"


@pytest.mark.parametrize(
    "name, count",
    [("yolov8n-seg-akconv", 6), ("yolov8n-pose-akconv", 6), ("yolov8n-obb-akconv", 6), ("yolov8n-cls-akconv", 4),
     ("yolov8n-c2f-akconv", 20), ("yolo11n-akconv", 6), ("yolov10n-akconv7", 3)],
)  # fmt: skip
def test_every_task_and_graft_is_drawn_and_the_model_left_as_it_was(name, count):
    from ultralytics import YOLO

    network = YOLO(f"{name}.yaml").model.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    samples = image_samples(network, plain_image(), imgsz=SIDE)
    assert len(samples.layers) == len(layers_of(network)) == count
    assert all(module.training and not module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "imgsz, side", [([64, 96], 96), ((96, 32), 96), (32, 32), (64.0, 64), (None, 640), ("absent", 640)]
)
def test_a_picture_is_drawn_at_the_side_a_model_was_trained_at_the_larger_of_two(imgsz, side):
    from types import SimpleNamespace

    network = with_offset(0.0, 0.0)
    for args in ({"imgsz": imgsz}, SimpleNamespace(imgsz=imgsz)) if imgsz != "absent" else ({}, None):
        network.args = args
        layer = image_samples(network, np.full((64, 64, 3), 114, np.uint8), 3).layers[0]
        assert max(layer.size) * layer.step == side


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("ending, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figures_are_written_in_any_format_light_and_dark(tmp_path, dark, ending, start):
    file = tmp_path / f"picture.{ending}"
    figure = plot_offsets(with_offset(0.0, 1.0), plain_image(), 3, imgsz=SIDE, dark=dark)
    figure.savefig(file)
    assert file.read_bytes().startswith(start)
    assert (sum(figure.get_facecolor()[:3]) < 1) == dark


def test_the_gallery_has_every_n_to_16_and_every_name():
    titles = [ax.get_title() for ax in plot_shapes(dark=True).axes]
    assert titles[:16] == [f"default\nN={n}" for n in range(1, 17)]
    assert {name for name, _ in GALLERY} == {title.split("\n")[0] for title in titles if title}


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"layers": 4}, ValueError, "no AKConv in layer 4: there are model.1, model.3"),
        ({"layers": "model.99"}, ValueError, "no AKConv in layer 'model.99'"),
        ({"at": (200, 10)}, ValueError, r"pixel \(200, 10\) is off the image, which is 128 wide and 64 high"),
        ({"image": "nowhere.jpg"}, FileNotFoundError, "image 'nowhere.jpg' does not exist"),
        ({"image": np.zeros((4, 4))}, ValueError, r"an image must be \(H, W, 3\) uint8, got \(4, 4\) float64"),
        ({"model": None}, TypeError, "model must be a file, a YOLO or a network in PyTorch, got NoneType"),
    ],
)
def test_wrong_input_is_refused_with_what_is_allowed(options, error, message):
    arguments = {"model": with_offset(0.0, 0.0), "image": plain_image(), "imgsz": SIDE, **options}
    with pytest.raises(error, match=message):
        plot_offsets(**arguments)


def test_a_model_without_akconv_and_a_pixel_that_is_cropped_away_are_refused(tmp_path):
    from ultralytics import YOLO

    with pytest.raises(ValueError, match="the model has no AKConv layer"):
        plot_offsets(built(yolov8_dict(name=None)), plain_image())
    with pytest.raises(ValueError, match="cropped away: the model sees x 32 to 96, y 0 to 64"):
        plot_offsets(YOLO("yolov8n-cls-akconv.yaml"), plain_image(), at=(5, 5), imgsz=SIDE)
    (tmp_path / "text.jpg").write_text("no image", "utf-8")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        plot_offsets(with_offset(0.0, 0.0), tmp_path / "text.jpg")


def test_a_training_is_drawn_from_its_log(tmp_path):
    (tmp_path / "results.csv").write_text(
        "epoch,time,lr/pg0,akconv/model.1,akconv/outside\n1,0.5,0.01,0.25,0.125\n2,1.0,0.01,0.5,0.25\n", "utf-8"
    )
    grown, off = plot_training(tmp_path).axes
    assert grown.lines[0].get_xydata().tolist() == [[1, 0.25], [2, 0.5]]
    assert grown.get_legend().get_texts()[0].get_text() == "model.1"
    assert off.lines[0].get_xydata().tolist() == [[1, 12.5], [2, 25]]


def test_a_training_without_our_columns_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results\.csv' does not exist"):
        plot_training(tmp_path)
    (tmp_path / "results.csv").write_text("epoch,time\n1,0.5\n", "utf-8")
    with pytest.raises(ValueError, match=r"has no akconv/\* columns"):
        plot_training(tmp_path / "results.csv")


def test_the_command_draws_each_picture(tmp_path, image_file, capsys):
    model = ["yolov8n-akconv.yaml", str(image_file), "--imgsz", "64", "--layer", "1,model.3"]
    commands = [
        ["shapes", "cross"],
        ["offsets", *model, "--at", "20,30", "--at", "100,30"],
        ["offsets", *model, "--view", "field", "--dark"],
        ["offsets", *model, "--view", "histogram"],
    ]
    for k, command in enumerate(commands):
        file = tmp_path / f"{k}.svg"
        assert main(["plot", *command, "-o", str(file)]) == 0
        assert file.stat().st_size > 1000
        assert capsys.readouterr().out.endswith(f"wrote {file}\n")


@pytest.mark.parametrize(
    "command, message",
    [
        (["offsets", "yolov8n.yaml", "IMAGE"], "the model has no AKConv layer"),
        (["offsets", "yolov8n-akconv.yaml", "nowhere.jpg"], "image 'nowhere.jpg' does not exist"),
        (["offsets", "yolov8n-akconv.yaml", "IMAGE", "--layer", "0"], "no AKConv in layer '0'"),
        (["offsets", "yolov8n-akconv.yaml", "IMAGE", "--at", "1,999"], "pixel (1, 999) is off the image"),
        (["offsets", "yolov8n-akconv.yaml", "IMAGE", "--at", "1,1", "--view", "field"], "--at belongs to"),
        (["training", "nowhere"], "'nowhere' does not exist"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(command, message, image_file, capsys):
    assert main(["plot", *(str(image_file) if part == "IMAGE" else part for part in command)]) == 1
    assert message in capsys.readouterr().err
