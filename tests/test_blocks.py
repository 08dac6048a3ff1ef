# SPDX-License-Identifier: AGPL-3.0-or-later
import pickle

import pytest
import torch
from ultralytics.nn.modules import block
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv import AKConv, modules

# What a block takes after its channels, where that is not the number of repeats alone.
BLOCK_ARGUMENTS = {
    "Bottleneck": (),
    "RepNCSPELAN4": (16, 8, 1),
    "ELAN1": (16, 8),
    "A2C2f": (1, False),
    "C2fAttn": (1, 32, 1),
}


@pytest.mark.parametrize("name", modules.BLOCKS)
def test_a_block_is_the_hosts_with_akconv_for_its_3x3_convolutions(name):
    arguments = BLOCK_ARGUMENTS.get(name, (1,))
    stock = getattr(block, name)(64, 64, *arguments)
    ours = modules.BLOCKS[name](64, 64, *arguments, num_param=3, border="clamp")
    plain = {n for n, m in stock.named_modules() if type(m) is Conv and m.conv.kernel_size == (3, 3)}
    replaced = {n: m for n, m in ours.named_modules() if isinstance(m, AKConv)}
    assert plain == set(replaced) and replaced
    assert all((m.num_param, m.border) == (3, "clamp") for m in replaced.values())
    x = (torch.randn(2, 64, 6, 7), torch.randn(2, 4, 512)) if name == "C2fAttn" else (torch.randn(2, 64, 6, 7),)
    assert isinstance(ours, type(stock)) and ours(*x).shape == stock(*x).shape
    double = pickle.loads(pickle.dumps(ours.eval()))
    assert torch.equal(double(*x), ours(*x))


@pytest.mark.skipif("A2C2f" not in modules.BLOCKS, reason="the host has no A2C2f yet")
def test_a_block_without_a_3x3_convolution_is_refused():
    with pytest.raises(ValueError, match=r"A2C2f_AKConv with arguments \[64, 64, 1\] has no 3x3 Conv to replace"):
        modules.BLOCKS["A2C2f"](64, 64, 1)  # area attention, the default


def test_a_block_keeps_the_number_of_points_it_is_told():
    counts = {n: sum(p.numel() for p in modules.BLOCKS["C2f"](8, 8, 1, num_param=n).parameters()) for n in (3, 5)}
    assert counts[5] - counts[3] == 2 * 2 * (4 * 4 + 4 * 2 * 9 + 2)  # two AKConv of 4 channels, two points more each


@pytest.mark.parametrize(
    ("name", "convs", "replaced"),
    [
        ("C2f", ["cv2"], ["m.0.cv2", "m.1.cv2"]),
        ("C2f", ["cv1"], ["m.0.cv1", "m.1.cv1"]),
        ("C2f", ["m.1.cv1", "m.0.cv2"], ["m.0.cv2", "m.1.cv1"]),
        ("C2f", ("m.0.cv2", "cv1"), ["m.0.cv1", "m.0.cv2", "m.1.cv1"]),
        ("C3", ["cv2"], ["m.0.cv2", "m.1.cv2"]),
        ("C3", ["cv1"], ["cv1", "m.0.cv1", "m.1.cv1"]),  # 1x1 ones, there being no 3x3 of the name
        ("C3", ["m.0.cv1", "cv2"], ["m.0.cv1", "m.0.cv2", "m.1.cv2"]),
    ],
)
def test_a_block_replaces_the_convolutions_it_is_told(name, convs, replaced):
    stock = getattr(block, name)(16, 16, 2)
    ours = modules.BLOCKS[name](16, 16, 2, num_param=3, convs=convs)
    akconvs = {n: m for n, m in ours.named_modules() if isinstance(m, AKConv)}
    assert sorted(akconvs) == sorted(replaced)
    for n, akconv in akconvs.items():
        conv = stock.get_submodule(n).conv
        assert (akconv.in_channels, akconv.out_channels, akconv.stride) == (conv.in_channels, conv.out_channels, 1)
    x = torch.randn(1, 16, 5, 6)
    double = pickle.loads(pickle.dumps(ours.eval()))
    assert torch.equal(double(x), ours(x)) and ours(x).shape == stock.eval()(x).shape


@pytest.mark.parametrize(
    ("convs", "error", "message"),
    [
        (
            ["cv9"],
            ValueError,
            r"no convolution of the block is named 'cv9': allowed are cv1, cv2, m\.0\.cv1, m\.0\.cv2",
        ),
        (["v2"], ValueError, "named 'v2'"),
        ([], TypeError, r"convs must be a list of names of convolutions, got \[\]"),
        ("cv2", TypeError, "convs must be a list"),
        ([2], TypeError, "convs must be a list"),
    ],
)
def test_names_of_convolutions_that_a_block_does_not_have_are_refused(convs, error, message):
    with pytest.raises(error, match=message):
        modules.BLOCKS["C2f"](16, 16, 1, convs=convs)
