# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a model's AKConv layers read one image: positions on the maps, and from there on the image.

From a map to the image, each way in `(row, col)` with an integer for a pixel centre. Map pixel p stands for pixel
`p * step` of the network's input, the centre of what it sees through padded convolutions of stride 2 (the upper left of
four for maps that were enlarged); `step` is 8 on a map of an eighth of the input's size. The input is the host's
letterboxed image, or the centre crop of a classifier: input pixel q is image pixel `(q + 0.5 - pad) / gain - 0.5`.
Example: a 1280x960 image at 640 px has gain 0.5; map pixel (10, 20) of step 8 is input pixel (80, 160), and with 0 rows
of padding image pixel (160.5, 320.5).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from ultralytics import RTDETR, YOLO
from ultralytics.data.augment import LetterBox, classify_transforms
from ultralytics.nn.tasks import ClassificationModel
from ultralytics.utils.patches import imread

from ultralytics_akconv.functional import sampling_positions
from ultralytics_akconv.host import input_channels, training_side
from ultralytics_akconv.layers import akconvs, off_map
from ultralytics_akconv.modules import AKConv
from ultralytics_akconv.opening import host_model

Model = Union[str, Path, nn.Module, YOLO, RTDETR]  # a checkpoint, a YAML, a wrapper of the host's, or the network
Image = Union[str, Path, np.ndarray]  # a file, or an array (H, W, 3) as OpenCV reads it
Layers = Union[int, str, Iterable[Union[int, str]], None]  # rows of the YAML or names of modules; None for all


@dataclass(frozen=True)
class View:
    """The part of the image that the network sees, as its input; pairs are (rows, columns)."""

    gain: tuple[float, float]  # input pixels an image pixel
    pad: tuple[float, float]  # input pixels before the image begins; negative where it is cropped

    def to_image(self, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        """Return input pixels as image pixels."""
        return tuple((q + 0.5 - pad) / gain - 0.5 for q, pad, gain in zip((rows, cols), self.pad, self.gain))

    def to_input(self, row: float, col: float) -> tuple[float, float]:
        """Return an image pixel as an input pixel."""
        return tuple((p + 0.5) * gain + pad - 0.5 for p, pad, gain in zip((row, col), self.pad, self.gain))


@dataclass(frozen=True)
class LayerSamples:
    """Where one layer reads the image. Positions and offsets are (N, h, w), in pixels of the map the layer reads.

    Attributes:
        name: The module's name in the model, `model.3` or `model.2.m.0.cv1`.
        size: Height and width of the map.
        step: Input pixels of the network from one map pixel to the next.
        stride: Map pixels from one output pixel to the next.
        rows: Row of every sample, with its offset.
        cols: Column of every sample, with its offset.
        row_offsets: Learned displacement down.
        col_offsets: Learned displacement to the right.
        norms: Norm of each point's weights in the column convolution (N).
        view: How the network's input lies on the image.
    """

    name: str
    size: tuple[int, int]
    step: int
    stride: int
    rows: Tensor
    cols: Tensor
    row_offsets: Tensor
    col_offsets: Tensor
    norms: Tensor
    view: View

    @property
    def displacement(self) -> Tensor:
        """Length of every offset (N, h, w), in map pixels."""
        return torch.hypot(self.row_offsets, self.col_offsets)

    @property
    def outside(self) -> Tensor:
        """Whether every sample (N, h, w) lies off the map, beyond the centres of its border pixels."""
        return off_map(self.rows, self.cols, self.size)

    def to_image(self, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        """Return map pixels as image pixels."""
        return self.view.to_image(rows * self.step, cols * self.step)

    def output_pixel(self, x: float, y: float) -> tuple[int, int]:
        """Return the output pixel (row, col) whose anchor lies nearest to image pixel (x, y)."""
        spacing = self.step * self.stride
        last = self.rows.shape[1:]
        return tuple(min(max(round(q / spacing), 0), n - 1) for q, n in zip(self.view.to_input(y, x), last))


@dataclass(frozen=True)
class Samples:
    """An image and where the layers of a model read it."""

    image: np.ndarray  # (H, W, 3) RGB uint8
    layers: tuple[LayerSamples, ...]
    seen: tuple[float, float, float, float]  # left, top, right, bottom of what the network sees, in image pixels


def image_samples(
    model: Model,
    image: Image,
    layers: Layers = None,
    imgsz: int | None = None,
) -> Samples:
    """Run a model on an image and return where its AKConv layers read it.

    Args:
        model: A checkpoint, a model YAML, Ultralytics' `YOLO` or `RTDETR`, or the network itself; it is left as it is.
        image: A file, or an array (H, W, 3) as OpenCV reads it (BGR uint8).
        layers: Indices of YAML rows or names of modules, one or several; None for every AKConv.
        imgsz: Side of the network's input in pixels; None for what it was trained at, 640 if that is unknown.

    Raises:
        FileNotFoundError: If the image or the model does not exist.
        TypeError: If the model is of another kind.
        ValueError: If there is no AKConv in the model or the named layer, or the image cannot be read.
    """
    network = _network(model)
    choose_layers(network, layers)  # before the work
    bgr = _read(image)
    network = copy.deepcopy(network).eval()  # hooks, and what a head remembers of its last input, stay off the caller's
    chosen = choose_layers(network, layers)
    weight = next(iter(chosen.values())).conv.conv.weight
    size = imgsz or training_side(network)
    tensor, view = _as_input(bgr, size, network)
    inputs: dict[str, tuple[Tensor, Tensor]] = {}

    def remember(name: str) -> Any:
        def hook(module: AKConv, args: tuple[Tensor]) -> None:
            inputs.setdefault(name, (args[0].shape[2:], module.offsets(args[0])[0].float().cpu()))

        return hook

    for name, layer in chosen.items():
        layer.register_forward_pre_hook(remember(name))
    with torch.no_grad():
        network(tensor.to(weight))
    records = tuple(
        _record(name, chosen[name], *inputs[name], tensor.shape[2:], view) for name in chosen if name in inputs
    )
    height, width = bgr.shape[:2]
    (top, bottom), (left, right) = (
        (max(-pad / gain, 0.0), min((n - pad) / gain, side))
        for pad, gain, n, side in zip(view.pad, view.gain, tensor.shape[2:], (height, width))
    )
    return Samples(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), records, (left, top, right, bottom))


def choose_layers(network: nn.Module, layers: Layers = None) -> dict[str, AKConv]:
    """Return the AKConv modules of a network by name: all, or those of the given rows and names.

    Raises:
        ValueError: If there is none, or none by that index or name.
    """
    present = akconvs(network)
    if not present:
        raise ValueError("the model has no AKConv layer")
    if layers is None:
        return present
    chosen = {}
    for layer in [layers] if isinstance(layers, (int, str)) else layers:
        prefix = layer if isinstance(layer, str) and not layer.isdigit() else f"model.{layer}"
        found = {name: module for name, module in present.items() if f"{name}.".startswith(f"{prefix}.")}
        if not found:
            raise ValueError(f"no AKConv in layer {layer!r}: there are {', '.join(present)}")
        chosen.update(found)
    return chosen


def _network(model: Model) -> nn.Module:
    """Return the network of whatever stands for a model."""
    if isinstance(model, (str, Path)):
        model = host_model(model, exported=False)
    network = model.model if isinstance(model, (YOLO, RTDETR)) else model
    if not isinstance(network, nn.Module):
        raise TypeError(f"model must be a file, a YOLO or a network in PyTorch, got {type(network).__name__}")
    return network


def _read(image: Image) -> np.ndarray:
    """Return an image as (H, W, 3) BGR."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        return image
    if not Path(image).is_file():
        raise FileNotFoundError(f"image '{image}' does not exist")
    array = imread(str(image), cv2.IMREAD_COLOR)
    if array is None:
        raise ValueError(f"'{image}' cannot be read as an image")
    return array


def _as_input(bgr: np.ndarray, size: int, network: nn.Module) -> tuple[Tensor, View]:
    """Return the network's input (1, C, h, w), values from 0 to 1, and how it lies on the image."""
    height, width = bgr.shape[:2]
    if isinstance(network, ClassificationModel):
        from PIL import Image

        tensor = classify_transforms(size)(Image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)))
        short = min(height, width)
        resized = [int(size * side / short) for side in (height, width)]  # torchvision's Resize truncates
        pad = tuple(-round((side - size) / 2) for side in resized)
        return tensor[None], View((resized[0] / height, resized[1] / width), pad)
    stride = getattr(network, "stride", None)
    letterbox = LetterBox((size, size), auto=True, stride=int(stride.max()) if isinstance(stride, Tensor) else 32)
    # Where the host puts the image, to the pixel and in any release: where a white one comes out.
    white = letterbox(image=np.full_like(bgr, 255))[..., 0] == 255
    rows, cols = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    boxed = letterbox(image=bgr)
    channels = input_channels(network)
    if channels not in (1, 3):
        raise ValueError(f"the model reads {channels} channels: pictures are drawn for models of 1 or 3")
    boxed = cv2.cvtColor(boxed, cv2.COLOR_BGR2GRAY)[..., None] if channels == 1 else boxed[..., ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(boxed.transpose(2, 0, 1)))[None] / 255
    return tensor, View((len(rows) / height, len(cols) / width), (float(rows[0]), float(cols[0])))


def _record(
    name: str, layer: AKConv, size: tuple[int, int], offset: Tensor, input_size: tuple[int, int], view: View
) -> LayerSamples:
    """Return where a layer reads a map, from the offsets (2N, h, w) it predicts there."""
    rows, cols = sampling_positions(offset[None], layer.points, layer.stride)[0].chunk(2)
    row_offsets, col_offsets = offset.chunk(2)
    norms = layer.conv.conv.weight.detach().float().cpu().flatten(2).norm(dim=(0, 1))  # (N)
    step = max(round(side / n) for side, n in zip(input_size, size))
    return LayerSamples(name, tuple(size), step, layer.stride, rows, cols, row_offsets, col_offsets, norms, view)
