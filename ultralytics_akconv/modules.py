# SPDX-License-Identifier: AGPL-3.0-or-later
"""AKConv as a module: the weights, the offset branch and the published state-dict layout.

Checkpoints pickle the path `ultralytics_akconv.modules.AKConv`: it must never change.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn
from ultralytics.nn.modules import block
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv.blocks import block_convs, chosen_convs
from ultralytics_akconv.functional import BORDERS, akconv2d, is_traced, resample, sampler, traced_form
from ultralytics_akconv.functional.recompute import recomputed_in_backward
from ultralytics_akconv.functional.scaling import check_scale, with_gradient_times
from ultralytics_akconv.functional.tracing import has_hooks, is_transformed
from ultralytics_akconv.shapes import Points, check_int, check_num_param, sampling_points

# Published key -> ours: the published module is a plain Sequential(Conv2d, BatchNorm2d, SiLU), ours the host's Conv.
PUBLISHED_PREFIXES = {"conv.0.": "conv.conv.", "conv.1.": "conv.bn."}
for _step in ("resample", "with_gradient_times"):
    fx.wrap(_step)  # each one step of a symbolic trace, which knows no sizes
# Samples a step of a batch on a CPU, in whole images. The samples and their gradients are the largest tensors of a
# training step; in parts they fit into memory that is free already, and a part is still near when it is used again.
_SAMPLES = 2**17


class OffsetConv2d(nn.Conv2d):
    """The 3x3 convolution that predicts the offsets: weight zero at the start, bias as PyTorch draws it.

    A class of its own because the host's `reset_weights()` calls `reset_parameters` on every convolution, and for
    `lr`, the factor on the gradient of its weight and bias in training. What flows on to the input is not scaled.
    """

    lr = 1.0

    def reset_parameters(self) -> None:
        """Draw the bias as any Conv2d does and set the weight to zero."""
        super().reset_parameters()
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the offsets (B, 2N, h, w) of `x`."""
        if self.lr == 1.0 or not self.training:
            return super().forward(x)
        weight, bias = (with_gradient_times(parameter, self.lr) for parameter in (self.weight, self.bias))
        return self._conv_forward(x, weight, bias)


class AKConv(nn.Module):
    """Convolution with any number of sampling points, any initial shape and learned offsets.

    What: a 3x3 convolution predicts an offset for each of N points; the input is sampled there bilinearly and the N
    samples of a pixel go through one (N, 1) column convolution, BatchNorm and SiLU (Ultralytics' `Conv`).

    Paper: "AKConv: Convolutional Kernel with Arbitrary Sampled Shapes and Arbitrary Number of Parameters", arXiv
    2311.11587; published later as "LDConv: Linear deformable convolution" (Image and Vision Computing 2024, 105190).

    Departures: positions are float32 under AMP and half precision, where the published code quantises them; NaN and inf
    offsets never index out of the map; the published backward hook, which has no effect, is left out and `offset_lr`
    does what it meant; the double border weight of the published code is an option (`border`), and the default.

    Args:
        in_channels: Channels of the input, C1.
        out_channels: Channels of the output, C2.
        num_param: Number of sampling points N.
        stride: Input pixels from one output pixel to the next; the output is `floor((H - 1) / stride) + 1` high.
        shape: Initial shape, a name of `shapes.SHAPES` or N `[row, col]` pairs in input pixels.
        border: "paper" (published: the border pixel counts twice an axis), "clamp" (replicate) or "zeros".
        origin: "corner" (published: the shape's top-left lies on the output pixel) or "center".
        offset_lr: Factor on the gradient of the offset branch's weight and bias in training; 1.0 leaves it as it is.
            It acts like a learning rate under SGD. Adam and its kin divide such a factor out again, and so does
            MuSGD of Ultralytics, which `optimizer=auto` takes for long trainings; its `freeze=["1.p_conv", ...]`
            holds the offsets under each of them. May be set later, too.
        act: The activation, as in Ultralytics' `Conv`: True for its default, False for none, or a module.
        bias: Whether the column convolution adds a bias before its BatchNorm, as the published code can.

    Shapes: (B, C1, H, W) -> (B, C2, h, w).

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a value is not allowed; the message says what is.

    Example:
        >>> AKConv(64, 128, num_param=5, stride=2)(torch.randn(1, 64, 80, 80)).shape
        torch.Size([1, 128, 40, 40])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_param: int,
        stride: int = 1,
        *,
        shape: str | list[list[float]] = "default",
        border: str = "paper",
        origin: str = "corner",
        offset_lr: float = 1.0,
        act: bool | nn.Module = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if border not in BORDERS:
            raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
        check_scale("offset_lr", offset_lr)
        if not isinstance(act, (bool, nn.Module)):  # the host's Conv would take anything else for "no activation"
            raise TypeError(f"act must be a bool or a module, got {act!r} ({type(act).__name__})")
        if not isinstance(bias, bool):
            raise TypeError(f"bias must be a bool, got {bias!r} ({type(bias).__name__})")
        self.in_channels = check_int("in_channels", in_channels, 1)
        self.out_channels = check_int("out_channels", out_channels, 1)
        self.num_param = check_num_param(num_param)
        self.stride = check_int("stride", stride, 1)
        self.points: Points = sampling_points(num_param, shape, origin)
        self.shape = shape if isinstance(shape, str) else "custom"
        self.border = border
        self.origin = origin
        self.p_conv = OffsetConv2d(in_channels, 2 * num_param, 3, stride=stride, padding=1)
        self.offset_lr = offset_lr
        self.conv = Conv(in_channels, out_channels, (num_param, 1), (num_param, 1), 0, act=act)  # p=0: no autopad
        if bias:
            self.conv.conv.bias = nn.Parameter(torch.zeros(out_channels))

    @property
    def offset_lr(self) -> float:
        """Factor on the gradient of the offset branch; it is kept there."""
        return getattr(self.p_conv, "lr", 1.0)  # a tool that changes layers may have put a plain Conv2d there

    @offset_lr.setter
    def offset_lr(self, value: float) -> None:
        self.p_conv.lr = check_scale("offset_lr", value)

    def offsets(self, x: Tensor) -> Tensor:
        """Return the learned offsets (B, 2N, h, w) of `x` in input pixels: N rows, then N columns."""
        return self.p_conv(x)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (B, C1, H, W) -> (B, C2, h, w)."""
        if isinstance(x, fx.Proxy):  # a symbolic trace, in which nothing can be decided by sizes
            return self.conv(resample(x, self.offsets(x), self.points, self.stride, self.border))
        if traced_form() is not None:  # sampling and column convolution are one there
            conv = self.conv.conv
            out = akconv2d(x, self.offsets(x), conv.weight, self.points, conv.bias, self.stride, self.border)
            return self._activated(out)
        parts = self._parts(x)
        if len(parts) == 1:
            return self._columns(x, self.conv)
        if getattr(self.conv, "bn", self).training:  # BatchNorm needs the whole batch, also alone in training mode
            return self._activated(torch.cat([self._columns(part, self.conv.conv) for part in parts]))
        return torch.cat([self._columns(part, self.conv) for part in parts])

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split the batch into the images that are worked on together; only a CPU gains by that.

        Where somebody's hook looks on, it is one part: a hook runs once a call, on the whole batch.
        """
        if x.device.type != "cpu" or x.ndim != 4 or is_traced():
            return (x,)
        samples = self.num_param * math.prod(math.ceil(side / self.stride) for side in x.shape[2:])
        images = max(1, _SAMPLES // max(1, samples))  # an empty map has no samples
        return (x,) if images >= len(x) or has_hooks(self) else x.split(images)

    def _columns(self, x: Tensor, conv: nn.Module) -> Tensor:
        """Return what the column convolution, or it and what follows, makes of the samples of `x`."""
        offset = self.offsets(x)
        sample = sampler(x, offset, self.points, self.stride, self.border)
        samples = sample()  # (B, C1, h*N, w)
        if not samples.requires_grad or is_traced() or is_transformed():
            return conv(samples)
        with recomputed_in_backward(samples, sample):
            return conv(samples)

    def _activated(self, out: Tensor) -> Tensor:
        """Apply what follows the column convolution in the host's `Conv`, which has no `bn` once it is fused."""
        return self.conv.act(self.conv.bn(out) if hasattr(self.conv, "bn") else out)

    def extra_repr(self) -> str:
        """Return the options that tell one AKConv from another."""
        text = f"{self.in_channels}, {self.out_channels}, num_param={self.num_param}, stride={self.stride}"
        text = f"{text}, shape={self.shape}, border={self.border}, origin={self.origin}"
        return f"{text}, offset_lr={self.offset_lr:g}, act={type(self.conv.act).__name__}"

    def published_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict under the published names: `p_conv.*`, `conv.0.*` and `conv.1.*`."""
        renamed = {}
        for key, value in self.state_dict().items():
            for published, ours in PUBLISHED_PREFIXES.items():
                if key.startswith(ours):
                    key = published + key[len(ours) :]
            renamed[key] = value
        return renamed

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Accept the published layout too: rename its keys, and compare its fixed buffer `p_n` with our points.

        Where they differ, `p_n` is an unexpected key: an error that says why, or if not `strict`, told to the caller.
        """
        for published, ours in PUBLISHED_PREFIXES.items():
            for key in [k for k in state_dict if k.startswith(prefix + published)]:
                state_dict[prefix + ours + key[len(prefix + published) :]] = state_dict.pop(key)
        published_points = state_dict.pop(prefix + "p_n", None)
        if published_points is not None:
            points = torch.tensor(self.points, device="cpu").T.flatten()  # N rows, then N columns
            published_points = published_points.detach().float().cpu().flatten()
            if published_points.shape != points.shape or not torch.equal(published_points, points):
                key = _UnexpectedKey(prefix + "p_n")
                key.why = (
                    f"{key} holds the initial points {published_points.tolist()} (rows, then columns), "
                    f"this AKConv starts from {points.tolist()}: build it with the same num_param and shape"
                )
                args[3].append(key)  # behind the metadata, `strict`, which is always True here, and the missing keys
        super()._load_from_state_dict(state_dict, prefix, *args)


class _UnexpectedKey(str):
    """A key of a state dict, which says in an error why it was not expected.

    PyTorch writes unexpected keys into its error by an f-string, which asks `__format__`; to all else it is the key.
    """

    def __format__(self, spec: str) -> str:
        return getattr(self, "why", str(self))


LDConv = AKConv  # the operator's later name


class AKConvBlock(nn.Module):
    """Base that turns a host block into one whose 3x3 convolutions are AKConv; see `BLOCKS` for what it is applied to.

    The block is built as the host builds it, then each plain 3x3 `Conv` inside is replaced by an AKConv of the same
    channels, stride and activation. Grouped and dilated convolutions and all other kernel sizes stay.

    Args:
        c1: Channels of the input.
        c2: Channels of the output.
        args: What else the host's block takes, in its order (n, shortcut, ...).
        num_param: Number of sampling points N of every AKConv inside.
        convs: Which convolutions to replace, by their names inside the block, whole or from a dot on: `["cv2"]` is the
            second one of every bottleneck, `["m.0.cv2"]` that of the first. Also 1x1 ones, where no 3x3 one is meant.
            None: all 3x3 ones.
        options: Keyword options of `AKConv`: shape, border, origin, offset_lr, bias.

    Raises:
        TypeError: If `convs` is no list of names.
        ValueError: If the block has no 3x3 convolution to replace, or none of a name in `convs`.
    """

    def __init__(
        self, c1: int, c2: int, *args: Any, num_param: int = 5, convs: list[str] | None = None, **options: Any
    ) -> None:
        super().__init__(c1, c2, *args)
        inside = block_convs(self)
        if convs is None and not any(inside.values()):
            raise ValueError(f"{type(self).__name__} with arguments {[c1, c2, *args]} has no 3x3 Conv to replace")
        for name in chosen_convs(inside, convs):
            parent, child = self.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
            host = getattr(parent, child)
            channels = host.conv.in_channels, host.conv.out_channels
            setattr(parent, child, AKConv(*channels, num_param, host.conv.stride[0], act=host.act, **options))


def _akconv_block(host_block: type[nn.Module]) -> type[nn.Module]:
    """Return the class `X_AKConv` of a host block X; it pickles under this module, where `BLOCKS` puts it."""
    name = f"{host_block.__name__}_AKConv"
    doc = f"Ultralytics' {host_block.__name__} with AKConv for its 3x3 convolutions; arguments as in `AKConvBlock`."
    return type(name, (AKConvBlock, host_block), {"__module__": __name__, "__doc__": doc})


# Host blocks that hold 3x3 convolutions, whatever the release; `BLOCKS` has those that the installed host knows.
HOST_BLOCKS = ("C2", "C2f", "C2fAttn", "C3", "C3k2", "A2C2f", "Bottleneck", "BottleneckCSP", "RepNCSPELAN4", "ELAN1")
# Host block name -> its class with AKConv. Each is also a name of this module, and under the operator's later name.
BLOCKS: dict[str, type[nn.Module]] = {
    name: _akconv_block(getattr(block, name)) for name in HOST_BLOCKS if hasattr(block, name)
}
globals().update({cls.__name__: cls for cls in BLOCKS.values()})
globals().update({cls.__name__.replace("AKConv", "LDConv"): cls for cls in BLOCKS.values()})
