# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an AKConv keeps: copies, checkpoints, state dicts of both layouts."""

import copy
import io
import pickle

import pytest
import torch
from conftest import TORCH, learned, skip_if_half_lacks
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils.torch_utils import ModelEMA

from ultralytics_akconv import AKConv, modules, sampling_points

OPTIONS = {"shape": "cross", "border": "clamp", "origin": "center", "offset_lr": 0.25}


def by_deepcopy(layer):
    return copy.deepcopy(layer)


def by_pickle(layer):
    return pickle.loads(pickle.dumps(layer))


def by_checkpoint(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def by_restricted_checkpoint(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    if TORCH < (2, 5):
        pytest.skip("torch.serialization.safe_globals came with torch 2.5")
    ours = [AKConv, modules.OffsetConv2d]
    with torch.serialization.safe_globals([*ours, Conv, nn.Conv2d, nn.BatchNorm2d, nn.SiLU, set]):
        return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("duplicate", [by_deepcopy, by_pickle, by_checkpoint, by_restricted_checkpoint])
def test_a_copy_keeps_options_and_output(duplicate):
    layer = learned(AKConv(3, 4, 5, 2, **OPTIONS)).eval()
    layer(torch.randn(1, 3, 9, 9))  # whatever is kept from a first call must not get in the way
    double = duplicate(layer)
    x = torch.randn(2, 3, 7, 9)
    assert repr(double) == repr(layer)
    assert (double.points, double.offset_lr, double.p_conv.lr) == (layer.points, 0.25, 0.25)
    assert torch.equal(double(x), layer(x))


def test_the_pickled_class_path_is_frozen():
    assert f"{AKConv.__module__}.{AKConv.__qualname__}" == "ultralytics_akconv.modules.AKConv"
    for name, cls in modules.BLOCKS.items():
        assert f"{cls.__module__}.{cls.__qualname__}" == f"ultralytics_akconv.modules.{name}_AKConv"
        assert getattr(modules, f"{name}_AKConv") is cls


def test_the_state_dict_holds_the_weights_and_nothing_else():
    assert list(AKConv(3, 4, 5).state_dict()) == [
        "p_conv.weight",
        "p_conv.bias",
        "conv.conv.weight",
        "conv.bn.weight",
        "conv.bn.bias",
        "conv.bn.running_mean",
        "conv.bn.running_var",
        "conv.bn.num_batches_tracked",
    ]


def test_the_published_layout_loads_and_saves_inside_a_model():
    model, other = (nn.Sequential(nn.Identity(), learned(AKConv(3, 4, 5, 2)), nn.ReLU()) for _ in range(2))
    state = {f"1.{key}": value for key, value in model[1].published_state_dict().items()}
    assert set(state) == {f"1.p_conv.{k}" for k in ("weight", "bias")} | {"1.conv.0.weight"} | {
        f"1.conv.1.{k}" for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    before = dict(state)
    other.load_state_dict(state, strict=True)
    assert state == before  # the caller's dict is his
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    model.load_state_dict(other.state_dict(), strict=True)


def test_the_published_layout_loads_with_and_without_its_optional_entries():
    layer = learned(AKConv(3, 4, 5))
    state = layer.published_state_dict()
    state["p_n"] = torch.tensor(layer.points).T.reshape(1, 10, 1, 1)
    for absent in ((), ("p_n",), ("num_batches_tracked",), ("p_n", "num_batches_tracked")):
        some = {key: value for key, value in state.items() if key.split(".")[-1] not in absent}
        fresh = AKConv(3, 4, 5)
        fresh.load_state_dict(some, strict=True)
        assert torch.equal(fresh.conv.conv.weight, layer.conv.conv.weight)


def test_a_foreign_or_incomplete_state_dict_is_refused():
    state = AKConv(3, 4, 5).published_state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*extra"):
        AKConv(3, 4, 5).load_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Missing key.*p_conv.bias"):
        AKConv(3, 4, 5).load_state_dict({k: v for k, v in state.items() if k != "p_conv.bias"})
    with pytest.raises(RuntimeError, match="size mismatch"):
        AKConv(3, 4, 6).load_state_dict(state)
    other_start = torch.tensor(sampling_points(5, "cross")).T.reshape(1, 10, 1, 1)
    layer = nn.Sequential(AKConv(3, 4, 5), AKConv(4, 4, 3))
    state = {f"0.{key}": value for key, value in {**state, "p_n": other_start}.items()}
    state.update({f"1.{key}": value for key, value in learned(AKConv(4, 4, 3)).published_state_dict().items()})
    with pytest.raises(
        RuntimeError, match=r"Unexpected key.*0\.p_n holds the initial points.*same num_param and shape"
    ):
        layer.load_state_dict(state)
    told = layer.load_state_dict(state, strict=False)
    assert (told.missing_keys, told.unexpected_keys) == ([], ["0.p_n"])
    for key, value in layer[1].published_state_dict().items():
        assert torch.equal(value, state[f"1.{key}"])


def test_ema_and_half_copies_are_made_and_run(close):
    model = nn.Sequential(learned(AKConv(3, 4, 5, 2, **OPTIONS)))
    x = torch.rand(1, 3, 9, 9)
    model(x)
    ema = ModelEMA(model)
    ema.update(model)
    half = copy.deepcopy(ema.ema).half().float()
    close(half(x), ema.ema(x), torch.float16)
    skip_if_half_lacks("convolution", torch.float16)
    assert copy.deepcopy(ema.ema).half()(x.half()).dtype == torch.float16


def test_a_bias_of_the_column_convolution_is_kept_in_every_layout(close):
    layer = AKConv(3, 4, 5, stride=2, bias=True)
    assert torch.equal(layer.conv.conv.bias, torch.zeros(4))
    torch.nn.init.normal_(layer.conv.conv.bias)
    layer = learned(layer).eval()
    published = layer.published_state_dict()
    assert torch.equal(published["conv.0.bias"], layer.conv.conv.bias)
    again, x = AKConv(3, 4, 5, stride=2, bias=True).eval(), torch.randn(2, 3, 9, 8)
    again.load_state_dict(published)
    assert torch.equal(again(x), layer(x))
    without = AKConv(3, 4, 5, stride=2).eval()
    without.load_state_dict({key: value for key, value in published.items() if key != "conv.0.bias"})
    without.conv.bn.running_mean -= layer.conv.conv.bias.detach()  # the same, by what BatchNorm does
    close(without(x), layer(x))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*conv\.conv\.bias"):
        AKConv(3, 4, 5, stride=2).load_state_dict(published)
    with pytest.raises(TypeError, match="bias must be a bool, got 1"):
        AKConv(3, 4, 5, bias=1)
