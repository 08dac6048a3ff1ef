# SPDX-License-Identifier: AGPL-3.0-or-later
"""The layer and the blocks that copies of Ultralytics with AKConv pasted into it have; `fork.py` makes models of them.

The layer is written from the operator's definition in the published layout of names; the blocks are the three kinds
that public copies have.
"""

import torch
from torch import nn
from ultralytics.nn.modules import block


def initial(num_param):
    """The paper's shape as p_n holds it: (1, 2N, 1, 1), rows and then columns."""
    base = round(num_param**0.5)
    points = [divmod(n, base) for n in range(num_param)]
    return torch.tensor([r for r, _ in points] + [c for _, c in points]).view(1, -1, 1, 1)


class AKConv(nn.Module):
    shape = None  # p_n is a buffer where this is set

    def __init__(self, inc, outc, num_param, stride=1, bias=None):
        super().__init__()
        self.num_param, self.stride = num_param, stride
        self.conv = nn.Sequential(
            nn.Conv2d(inc, outc, (num_param, 1), (num_param, 1), bias=bool(bias)), nn.BatchNorm2d(outc), nn.SiLU()
        )
        self.p_conv = nn.Conv2d(inc, 2 * num_param, 3, padding=1, stride=stride)
        self.p_conv.register_full_backward_hook(self.set_lr)  # pickled with the layer, as a way to the function
        if self.shape is not None:
            self.register_buffer("p_n", self.shape if num_param == 5 else initial(num_param))

    @staticmethod
    def set_lr(module, grad_input, grad_output):
        return None

    def forward(self, x):
        offset, n = self.p_conv(x), self.num_param
        p_n = getattr(self, "p_n", initial(n)).to(x)
        height, width = offset.shape[2:]
        rows = torch.arange(height)[:, None] * self.stride + p_n[:, :n] + offset[:, :n]
        columns = torch.arange(width) * self.stride + p_n[:, n:] + offset[:, n:]  # (B, N, h, w)
        samples = 0
        for row, u in self.axis(rows, x.shape[2]):
            for column, v in self.axis(columns, x.shape[3]):
                index = (row * x.shape[3] + column).flatten(1)[:, None].expand(-1, x.shape[1], -1)
                pixels = x.flatten(2).gather(2, index).view(*x.shape[:2], n, height, width)
                samples = samples + (u * v)[:, None] * pixels
        return self.conv(samples.permute(0, 1, 3, 2, 4).flatten(2, 3))  # (B, C, h*N, w)

    def axis(self, position, size):
        low = position.detach().floor()
        low, high = low.clamp(0, size - 1), (low + 1).clamp(0, size - 1)
        inside = position.clamp(0, size - 1)
        return (low.long(), 1 + low - inside), (high.long(), 1 - high + inside)


class LDConv(AKConv):
    shape = initial(5)


class Shaped(AKConv):
    shape = torch.tensor([0, 0, 1, 2, 2, 0, 2, 1, 0, 2]).view(1, -1, 1, 1)


class Bottleneck_AKConv(block.Bottleneck):
    """Both convolutions, or the second one alone with its kernel size for N, or with a third branch beside them."""

    kind = "both"

    def __init__(self, c1, c2, shortcut=True, g=1, k=(3, 3), e=0.5):
        super().__init__(c1, c2, shortcut, g, k, e)
        c_ = self.cv1.conv.out_channels
        if self.kind == "both":
            self.cv1 = AKConv(c1, c_, 5)
        self.cv2 = AKConv(c_, c2, 3 if self.kind == "second" else 5)
        if self.kind == "third":
            self.cv3 = AKConv(c1, c2, 1)

    def forward(self, x):
        y = self.cv2(self.cv1(x)) + (self.cv3(x) if self.kind == "third" else 0)
        return x + y if self.add else y


class SecondBottleneck(Bottleneck_AKConv):
    kind = "second"


class ThirdBottleneck(Bottleneck_AKConv):
    kind = "third"


class C2f_AKConv(block.C2f):
    inside = Bottleneck_AKConv

    def __init__(self, c1, c2, n=1, shortcut=False, g=1, e=0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        self.m = nn.ModuleList(self.inside(self.c, self.c, shortcut, g, k=((3, 3), (3, 3)), e=1.0) for _ in range(n))


class C2f_second(C2f_AKConv):
    inside = SecondBottleneck


class C2f_AKConv_third(C2f_AKConv):
    inside = ThirdBottleneck


class C3k_AKConv(block.C3k):
    def __init__(self, c1, c2, n=1, shortcut=True, g=1, e=0.5, k=3):
        super().__init__(c1, c2, n, shortcut, g, e, k)
        c_ = int(c2 * e)
        self.m = nn.Sequential(*(SecondBottleneck(c_, c_, shortcut, g, k=(k, k), e=1.0) for _ in range(n)))


class C3k2_AKConv(block.C3k2):
    def __init__(self, c1, c2, n=1, c3k=False, e=0.5, g=1, shortcut=True):
        super().__init__(c1, c2, n, c3k, e, g, shortcut)
        self.m = nn.ModuleList(
            C3k_AKConv(self.c, self.c, 2, shortcut, g) if c3k else SecondBottleneck(self.c, self.c, shortcut, g)
            for _ in range(n)
        )


class C3k2_LDConv(block.C3k2):
    """Holds AKConv where it holds bottlenecks; its C3k, though named otherwise, is the host's."""

    def __init__(self, c1, c2, n=1, c3k=False, e=0.5, g=1, shortcut=True):
        super().__init__(c1, c2, n, c3k, e, g, shortcut)
        self.m = nn.ModuleList(
            C3k_LDConv(self.c, self.c, 2, shortcut, g) if c3k else SecondBottleneck(self.c, self.c, shortcut, g)
            for _ in range(n)
        )


class C3k_LDConv(block.C3k):
    pass


class C3k2_forgotten(C3k2_AKConv):
    """What the parser does to C3k2 at the scales m, l and x is not done to it."""


class C3_AKConv(block.C3):
    def __init__(self, c1, c2, n=1, shortcut=True, g=1, e=0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        c_ = int(c2 * e)
        self.m = nn.Sequential(*(Bottleneck_AKConv(c_, c_, shortcut, g, k=((1, 1), (3, 3)), e=1.0) for _ in range(n)))


class Attention_of_somebody(nn.Module):
    def __init__(self, c1, c2):
        super().__init__()
        self.gate = nn.Conv2d(c1, c2, 1)

    def forward(self, x):
        return x * self.gate(x).sigmoid()


class C2f(block.C2f):
    """The host's own block, edited in place."""

    def __init__(self, c1, c2, n=1, shortcut=False, g=1, e=0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        inner = (SecondBottleneck(self.c, self.c, shortcut, g, k=((3, 3), (3, 3)), e=1.0) for _ in range(n))
        self.m = nn.ModuleList(inner)


LAYERS = [AKConv, LDConv, Shaped, Attention_of_somebody]
REPEATED = {
    "C2f": [C2f_AKConv, C2f_second, C2f_AKConv_third],
    "C3": [C3_AKConv],
    "C3k2": [C3k2_AKConv, C3k2_LDConv, C3k2_forgotten],
}
INNER = [Bottleneck_AKConv, SecondBottleneck, ThirdBottleneck, C3k_AKConv, C3k_LDConv]
CLASSES = [*LAYERS, *(cls for classes in REPEATED.values() for cls in classes), *INNER]
