# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the kernels earn the trust to compute: a check in each process, and what there is no check of."""

import sys
import threading
import warnings
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from sample_forms import needs_triton

from ultralytics_akconv.functional.kernels import KernelStatus, kernel_status, trust

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(trust, "_known", {})
    monkeypatch.setattr(trust, "_warned", False)
    monkeypatch.delenv(trust.SWITCH, raising=False)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_self_check_compares_values_and_gradients_once_a_process(dtype):
    before = torch.random.get_rng_state()
    with mock.patch.object(trust, "_errors", wraps=trust._errors) as errors, warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            status = kernel_status(CPU, dtype)
        assert kernel_status(CPU, dtype) is status
        assert errors.call_count == 1
    assert status.trusted and status.reason is None
    assert set(status.errors) == {"samples", "input gradient", "offset gradient"}
    assert max(status.errors.values()) <= trust.TOLERANCES[dtype] and min(status.errors.values()) >= 0
    assert torch.equal(torch.random.get_rng_state(), before)


@needs_triton
@pytest.mark.parametrize("wrong", ["samples", "input gradient", "offset gradient", "not a number"])
def test_a_difference_is_one_warning_and_no_trust(wrong, monkeypatch):
    passed, plain = trust._passed, []

    def spoiled(sample, *rest):
        if sample is trust.gather_samples:
            plain[:] = passed(sample, *rest)
            return plain
        place = {"samples": 0, "input gradient": 1}.get(wrong, 2)
        return [*plain[:place], plain[place] + (float("nan") if wrong == "not a number" else 0.1), *plain[place + 1 :]]

    monkeypatch.setattr(trust, "_passed", spoiled)
    with pytest.warns(RuntimeWarning, match="float32 on cpu.*differ from the plain formula.*akconv check") as told:
        status = kernel_status(CPU, torch.float32)
        again = kernel_status(CPU, torch.float64)
    assert len(told) == 1
    assert not status.trusted and not again.trusted
    assert status.reason.startswith("they differ from the plain formula: ")
    assert len(status.errors) == 3


@needs_triton
def test_a_failed_compilation_is_one_warning_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(trust, "_errors", mock.Mock(side_effect=RuntimeError("Failed to find C compiler.")))
    with pytest.warns(
        RuntimeWarning, match="Failed to find C compiler.*apt install gcc.*ULTRALYTICS_AKCONV_KERNELS=0"
    ) as told:
        statuses = [kernel_status(CPU, dtype) for dtype in (torch.float32, torch.float16, torch.float32)]
    assert len(told) == 1
    assert {status.reason for status in statuses} == {"RuntimeError: Failed to find C compiler."}
    assert not any(status.trusted for status in statuses) and trust._errors.call_count == 2


def unchecked(reason, device=CPU):
    """Hold that there is no check, no trust and no warning, for this reason."""
    with mock.patch.object(trust, "_errors") as errors, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel_status(device, torch.float32) == KernelStatus(False, reason, {})
    errors.assert_not_called()


def test_what_is_switched_off_absent_or_too_old_is_not_checked_and_not_warned_of(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with monkeypatch.context() as patch:
        patch.setenv(trust.SWITCH, "0")
        unchecked("switched off by ULTRALYTICS_AKCONV_KERNELS=0")
    trust._known.clear()
    with monkeypatch.context() as patch:
        patch.setattr(trust.importlib.util, "find_spec", lambda name: None)
        unchecked("Triton is not installed")
    trust._known.clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "triton", SimpleNamespace(__version__="2.3.1+git", __spec__=1))
        unchecked("Triton 2.3.1+git is older than 3.0, which comes with torch 2.4")
    trust._known.clear()
    monkeypatch.setattr(trust.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    unchecked("the card has compute capability 6.1, Triton needs 7.0", GPU)


def test_nothing_is_checked_while_a_cuda_graph_is_captured_and_it_is_afterwards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    unchecked("not checked yet, since a CUDA graph is being captured", GPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(trust, "_status", lambda device, dtype: KernelStatus(True))
    assert kernel_status(GPU, torch.float32).trusted


def test_threads_that_come_together_check_once(monkeypatch):
    entered, calls = threading.Barrier(4), []

    def status(device, dtype):
        calls.append(dtype)
        return KernelStatus(True)

    def ask():
        entered.wait()
        kernel_status(CPU, torch.float32)

    monkeypatch.setattr(trust, "_status", status)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [torch.float32]
