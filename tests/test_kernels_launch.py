# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the Triton kernels launch, and where: the memory they touch, the device, the order, what they say beforehand."""

import contextlib
import inspect
import math
from unittest import mock

import pytest
import torch
from sample_forms import case, needs_triton, passed
from torch.utils._python_dispatch import TorchDispatchMode

from ultralytics_akconv import resample, sampling_points
from ultralytics_akconv.functional import using_path
from ultralytics_akconv.functional.kernels import samples
from ultralytics_akconv.functional.kernels.samples import KernelSamples, check_cells

pytestmark = needs_triton


@pytest.mark.parametrize("needed", [(True, False), (False, True)], ids=str)
def test_a_gradient_is_made_for_what_needs_one_alone(needed):
    x, offset = case((2, 3, 5, 4), stride=2)
    both = passed("kernels", x, offset, sampling_points(5), 2, "paper")[1:]
    tensors = [tensor.clone().requires_grad_(need) for tensor, need in zip((x, offset), needed)]
    with using_path("kernels"), mock.patch.object(samples, "_launch", wraps=samples._launch) as launch:
        resample(*tensors, sampling_points(5), 2).sum().backward()
    assert len(launch.call_args_list) == (3 if needed[0] else 2)  # the pixels have a program of their own
    for tensor, need, wanted in zip(tensors, needed, both):
        assert torch.equal(tensor.grad, wanted) if need else tensor.grad is None


def guarded(shape, dtype, value=math.nan):
    """Return memory for a tensor amid more of it, and that more."""
    count = torch.Size(shape).numel()
    whole = torch.full((count + 512,), value if dtype.is_floating_point else -77, dtype=dtype)
    inner = whole[256 : 256 + count]
    return inner.view(shape), (whole, inner)


def test_nothing_beside_the_tensors_is_read_or_written():
    bands = []

    def memory(shape, dtype, device, memory_format=torch.contiguous_format):
        last = memory_format == torch.channels_last
        size = torch.Size([shape] if isinstance(shape, int) else shape)
        tensor, band = guarded([size[axis] for axis in (0, 2, 3, 1)] if last else size, dtype)
        bands.append(band)
        return tensor.permute(0, 3, 1, 2) if last else tensor

    for border, layout in (("paper", (0, 1, 2, 3)), ("zeros", (0, 2, 3, 1))):
        x, offset = case((2, 20, 5, 4), stride=2, spread=6, dtype=torch.float32)
        inputs = []
        for tensor in (x, offset, torch.randn(2, 20, 15, 2)):
            inner, band = guarded([tensor.shape[axis] for axis in layout], tensor.dtype)
            inner = inner.permute([layout.index(axis) for axis in range(4)]).copy_(tensor)
            bands.append(band)
            inputs.append(inner)
        expected = passed("kernels", x, offset, sampling_points(5), 2, border, inputs[2])
        with mock.patch.object(torch, "empty", memory):
            found = passed("kernels", *inputs[:2], sampling_points(5), 2, border, inputs[2])
        assert all(map(torch.equal, found, expected))
    assert len(bands) == 2 * (3 + 4)  # samples, cells, weights, pixels
    for whole, inner in bands:
        band = torch.cat((whole[:256], whole[256 + inner.numel() :]))
        assert (band.isnan() if band.is_floating_point() else band == -77).all()
        assert not inner.isnan().any() if inner.is_floating_point() else (inner != -77).all()


def test_an_empty_batch_launches_nothing():
    x, offset = (tensor.requires_grad_() for tensor in case((0, 3, 5, 7), stride=2))
    with mock.patch.object(samples, "_launch") as launch:
        out = KernelSamples.apply(x, offset, sampling_points(5), 2, "paper")
        out.sum().backward()
    assert out.shape == (0, 3, 15, 4) and x.grad.shape == x.shape and offset.grad.shape == offset.shape
    launch.assert_not_called()


def test_images_beyond_the_limit_of_a_grid_axis_lie_on_the_first_axis():
    x, offset = torch.empty(1).expand(70_000, 1, 1, 1), torch.empty(1).expand(70_000, 2, 1, 1)
    starts = mock.Mock(return_value=torch.zeros(70_001, dtype=torch.int32))  # what is mocked writes no cells
    with mock.patch.object(samples, "_launch") as launch, mock.patch.object(samples, "_starts", starts):
        KernelSamples.apply(x.requires_grad_(), offset, ((0.0, 0.0),), 1, "paper").sum().backward()
    assert [call.args[1] for call in launch.call_args_list] == [(70_000,), (70_000,), (70_000, 1)]


def test_every_program_is_launched_on_the_device_of_the_input():
    """With two GPUs, Triton launches on the current one, wherever the tensors are."""
    inside, seen = [], []

    @contextlib.contextmanager
    def device_of(tensor):
        inside.append(tensor)
        yield
        inside.pop()

    x, offset = (tensor.requires_grad_() for tensor in case((1, 3, 3, 4), stride=2))
    from ultralytics_akconv.functional.kernels import programs

    recorded = {}
    for name in ("sample_program", "sample_gradient_program", "pixel_gradient_program"):
        program = getattr(programs, name)

        def launch(grid, program=program):
            seen.append(inside[-1])
            return program[grid]

        recorded[name] = mock.MagicMock(__getitem__=lambda _, grid, launch=launch: launch(grid))
    with mock.patch.object(torch.cuda, "device_of", device_of), mock.patch.multiple(programs, **recorded):
        passed("kernels", x, offset, sampling_points(5), 2, "paper")
    assert len(seen) == 3 and all(tensor.shape == x.shape for tensor in seen)


def test_tensors_of_a_cpu_are_refused_where_nothing_interprets():
    from ultralytics_akconv.functional.kernels import programs

    x, offset = case()
    allowed = r"run on CUDA tensors, or on a CPU where TRITON_INTERPRET=1 .* got a tensor on cpu"
    with mock.patch.object(programs, "INTERPRETED", False), using_path("kernels"):  # noqa: SIM117
        with pytest.raises(RuntimeError, match=allowed):
            resample(x, offset, sampling_points(5))


def test_the_operators_say_what_they_make_without_memory():
    points = [number for point in sampling_points(5) for number in point]
    x = torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)
    offset, grad = torch.randn(2, 10, 3, 4), torch.randn(2, 3, 15, 4).to(memory_format=torch.channels_last)
    order, starts = torch.arange(120), torch.arange(71, dtype=torch.int32)
    operators = torch.ops.ultralytics_akconv

    def results(*tensors):
        x, offset, grad, order, starts = tensors
        yield operators.sample(x, offset, points, 2, "paper")
        for asked in ((True, True), (True, False), (False, True)):
            made = operators.sample_gradient(grad, x, offset, points, 2, "paper", *asked)
            yield from made
        yield operators.pixel_gradient(grad, torch.ones(120, 4), order, starts.clamp(max=120), x)

    real = list(results(x, offset, grad, order, starts))
    meta = list(results(*(tensor.to("meta") for tensor in (x, offset, grad, order, starts))))
    for ours, other in zip(real, meta):
        assert (ours.shape, ours.dtype, ours.stride()) == (other.shape, other.dtype, other.stride())


def test_deterministic_algorithms_do_not_fill_what_the_programs_write_and_fill_the_rest(monkeypatch):
    """Ultralytics up to 8.4 trains with them and leaves the filling on; the newest switch it off by themselves."""
    if not hasattr(torch.utils, "deterministic"):
        pytest.skip(f"torch {torch.__version__} fills no new memory")
    settings, made, empty = torch.utils.deterministic, [], torch.empty
    monkeypatch.setattr(settings, "fill_uninitialized_memory", True)

    def noted(*arguments, **options):
        made.append(settings.fill_uninitialized_memory)
        return empty(*arguments, **options)

    x, offset = case((1, 3, 3, 4), stride=2)
    expected = passed("kernels", x, offset, sampling_points(5), 2, "paper")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with mock.patch.object(torch, "empty", noted):
            found = passed("kernels", x, offset, sampling_points(5), 2, "paper")
        assert made == [False] * 4 and settings.fill_uninitialized_memory is True
        assert empty(1).isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("cell", [-1, 12])
def test_a_sample_on_no_pixel_is_an_error_before_anything_is_written_there(cell):
    x, offset = case((1, 3, 3, 4), stride=2, dtype=torch.float32)
    arguments = torch.randn(1, 3, 10, 2), x, offset, sampling_points(5), 2
    check_cells(*arguments)
    found = None, torch.tensor([0, cell, 11], dtype=torch.int32), None
    wrong = pytest.raises(ArithmeticError, match=f"on pixels {min(cell, 0)} to {max(cell, 11)} of 12")
    with mock.patch.object(samples, "_sample_gradient", return_value=found), wrong:
        check_cells(*arguments)


def test_a_mode_sees_operators_and_else_the_functions_are_called_at_once():
    x, offset = case((1, 3, 3, 4), stride=2)
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.name())
            return function(*args, **(kwargs or {}))

    alone = passed("kernels", x, offset, sampling_points(5), 2, "paper")
    with Mode():
        under = passed("kernels", x, offset, sampling_points(5), 2, "paper")
    assert all(map(torch.equal, under, alone))
    own = [name.partition("::")[2] for name in seen if name.startswith("ultralytics_akconv::")]
    assert own == ["sample", "sample_gradient", "pixel_gradient"]
    with mock.patch.multiple(torch.ops.ultralytics_akconv, **dict.fromkeys(own, mock.Mock(side_effect=AssertionError))):
        passed("kernels", x, offset, sampling_points(5), 2, "paper")


def test_the_operators_stay_where_the_module_is_imported_anew(fresh):
    code = """
import importlib, sys, torch
from ultralytics_akconv.functional.kernels import samples
importlib.reload(samples)
for name in [name for name in sys.modules if name.startswith("ultralytics_akconv")]:
    del sys.modules[name]
del samples
from ultralytics_akconv.functional import resample, using_path
with using_path("kernels"):
    assert resample(torch.ones(1, 3, 4, 4), torch.zeros(1, 2, 4, 4), ((0.0, 0.0),), border="clamp").eq(1).all()
assert "triton" in sys.modules
"""
    process = fresh(code, TRITON_INTERPRET="1")
    assert process.returncode == 0, process.stderr


def test_the_programs_have_no_atomic_operation_whose_order_would_differ_from_run_to_run():
    from ultralytics_akconv.functional.kernels import programs

    assert "atomic" not in inspect.getsource(programs)
