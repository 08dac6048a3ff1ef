# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the steps of `scripts/gpu.py` find and what they take for an error, and calls of CUDA against a stand-in."""

from types import SimpleNamespace

import pytest
import torch
from ultralytics import YOLO

from ultralytics_akconv import AKConv
from ultralytics_akconv.gpu import Settings, clock, exactness, models, read_facts, tables, trainings
from ultralytics_akconv.gpu import worker as steps_process
from ultralytics_akconv.gpu.facts import Run
from ultralytics_akconv.gpu.steps import Step

CPU = torch.device("cpu")


def a_run(tmp_path, step="layers", device=CPU, seconds=60.0, tiny=True):
    return Run(Settings("cpu", tiny), step, device, tmp_path, tmp_path, seconds)


def test_a_part_that_fails_or_has_no_time_is_a_fact_and_stops_nothing(tmp_path):
    run = a_run(tmp_path, seconds=5)
    assert run.part("one", lambda: 1 / 0, peer="a") == {}
    assert run.part("two", lambda: {"ms": 1.0}, 10, peer="a") == {}
    assert run.part("three", lambda: {"ms": 2.0}, 1, peer="b") == {"ms": 2.0}
    one, two, three = read_facts(tmp_path)
    assert one["failed"].endswith("ZeroDivisionError: division by zero") and run.failures == 1
    assert two["left_out"] == "5 s left, 10 s needed"
    assert (three["step"], three["peer"], three["ms"]) == ("layers", "b", 2.0)


def test_wrong_samples_are_an_error_that_names_case_and_size(tmp_path, monkeypatch):
    case = exactness.Case((1, 4, 5, 4))
    assert max(exactness._worst(a_run(tmp_path), (case,), torch.float32, "gather", "paper").values()) < 1e-5
    right = exactness.resample

    def wrong(x, offset, *rest):
        return right(x, offset + 1e-3 * (x.dtype == torch.float32), *rest)

    monkeypatch.setattr(exactness, "resample", wrong)
    with pytest.raises(ArithmeticError, match=r"beyond 1e-05: \{'samples': \(.*\(1, 4, 5, 4\), 5, 2, None"):
        exactness._worst(a_run(tmp_path), (case,), torch.float32, "gather", "paper")


def test_a_nan_elsewhere_than_in_float64_is_an_error(tmp_path, monkeypatch):
    right = exactness.resample
    monkeypatch.setattr(
        exactness,
        "resample",
        lambda x, *rest: right(x, *rest) * (x.new_tensor(0.0).sqrt() / 0 if x.dtype == torch.float32 else 1),
    )
    with pytest.raises(ArithmeticError, match="nan"):
        exactness._worst(a_run(tmp_path), (exactness.Case((1, 4, 5, 4)),), torch.float32, "gather", "zeros")


def test_kernels_that_do_not_repeat_themselves_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(exactness, "passed", lambda *args: tuple(torch.rand(2) for _ in range(4)))
    with pytest.raises(ArithmeticError, match="not the same bits"):
        exactness._repeated(a_run(tmp_path), exactness.Case((1, 4, 5, 4)), "kernels")
    assert exactness._repeated(a_run(tmp_path), exactness.Case((1, 4, 5, 4)), "grid")["samples"] > 0


def test_a_large_batch_whose_last_image_is_another_is_an_error(tmp_path, monkeypatch):
    case = exactness.Case((2, 4, 9, 9), stride=5)
    assert set(exactness._large(a_run(tmp_path), case, "gather").values()) == {True}
    right = exactness.passed
    monkeypatch.setattr(exactness, "passed", lambda x, *rest: tuple(part + (len(x) > 1) for part in right(x, *rest)))
    with pytest.raises(ArithmeticError, match="something else"):
        exactness._large(a_run(tmp_path), case, "gather")


def test_a_loss_that_is_no_number_is_an_error(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text(
        "epoch, time, train/box_loss,train/cls_loss,metrics/mAP50(B),akconv/outside\n"
        "1,2.5,1,2,0.4,0.1\n2,4,0.5,1,0.3,0.2\n3,6.5,0.5,1,0.3,0.2\n",
        "utf-8",
    )
    assert trainings._results(file) == {
        "epochs": 3, "first loss": 3.0, "last loss": 1.5, "seconds an epoch": 2.5, "mAP50": 0.4, "outside": 0.2
    }  # fmt: skip
    file.write_text("epoch,train/box_loss\n1,nan\n", "utf-8")
    with pytest.raises(ArithmeticError, match="a loss is not a number"):
        trainings._results(file)


def test_a_training_that_fails_gives_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)yolo train ended with 1.*no-such-model"):
        trainings.yolo_train(a_run(tmp_path, "train"), "no-such-model.yaml")


def test_half_precision_without_numbers_is_an_error(tmp_path, monkeypatch):
    class Network(torch.nn.Module):
        def forward(self, x):
            return (torch.full((1, 6, 3), float("inf") if x.dtype == torch.bfloat16 else 1.0),)

    monkeypatch.setattr(models, "settled", lambda model, side: Network())
    with pytest.raises(ArithmeticError, match="no numbers come out"):
        models._half_outputs(a_run(tmp_path), "any.yaml")


def test_half_precision_that_costs_more_of_the_score_than_it_may_is_an_error(tmp_path, monkeypatch):
    scores = iter((0.50, 0.56))  # half precision first

    class Model:
        def val(self, **settings):
            return SimpleNamespace(box=SimpleNamespace(map50=next(scores)), speed={"inference": 1.0})

    monkeypatch.setattr(models, "YOLO", lambda model: Model())
    monkeypatch.setattr(models, "settled", lambda model, side: torch.nn.Identity())
    with pytest.raises(ArithmeticError, match=r"half precision costs 0\.06.* of mAP50, 0\.05 are allowed"):
        models._half_validation(a_run(tmp_path))
    scores = iter((0.09, 0.09))
    monkeypatch.setattr(models, "network_of", lambda run, model, side: (torch.nn.Identity(), True))
    with pytest.raises(ArithmeticError, match="the trained model finds too little"):
        models._half_validation(a_run(tmp_path, tiny=False))


def test_a_model_that_was_trained_before_is_taken_in_place_of_a_settled_one(tmp_path):
    run = a_run(tmp_path)
    assert trainings.trained(run, models.AKCONV) is None
    weights = run.work / "yolov8n-akconv-train/weights/best.pt"
    weights.parent.mkdir(parents=True)
    torch.save({"model": YOLO(models.AKCONV).model, "train_args": {}}, weights)
    network, learned = models.network_of(run, models.AKCONV, 32)
    assert trainings.trained(run, models.AKCONV) == weights and learned
    assert any(isinstance(layer, AKConv) for layer in network.modules())
    assert trainings.trained(run, models.PLAIN) is None


def test_what_may_not_fit_into_the_memory_is_left_out_and_the_rest_has_failed(tmp_path):
    def too_large():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    run = a_run(tmp_path)
    assert run.part("steps in turn", too_large, may_not_fit=True, batch=128) == {} and run.failures == 0
    assert run.part("error", too_large) == {} and run.failures == 1
    left_out, failed = read_facts(tmp_path)
    assert "memory of the card" in left_out["left_out"] and "failed" not in left_out
    assert "CUDA out of memory" in failed["failed"]


def test_the_tables_hold_ratios_to_what_was_measured_beside():
    step = {"step": "model", "path": None, "deterministic": True, "published": False}
    facts = [
        {"step": "errors", "what": "error", "path": "kernels", "dtype": "torch.float16", "samples": s,
         "input gradient": 2e-4, "offset gradient": 3e-4} for s in (1e-4, 5e-4)
    ]  # fmt: skip
    for layer, factor in (("a", 1), ("b", 3)):
        for peer, ms in (("conv 3x3", 1.0), ("akconv kernels", 1.5)):
            times = {"forward ms": ms * factor, "training ms": 2 * ms * factor}
            facts.append({"step": "layers", "what": "layer", "layer": layer, "peer": peer, **times})
            kind, _, path = ("conv 3x3", "", "") if peer == "conv 3x3" else peer.partition(" ")
            busy = {"layer": layer, "kind": kind, "path": path or None, "busy ms": 3 * ms * factor}
            facts.append({"step": "layers", "what": "layer busy", **busy})
    turn = {"plain ms": 50.0, "akconv ms": 60.0, "low ms": 58.0, "high ms": 63.0, "x plain": 1.19}
    turn |= {"plain busy ms": 10.0, "akconv busy ms": 11.5}
    facts.append({"step": "model", "what": "steps in turn", "batch": 16, **turn})
    for model, ms in (("yolov8n.yaml", 100.0), ("yolov8n-akconv.yaml", 108.0)):
        facts.append({**step, "what": "training step", "model": model, "ms": ms, "peak MB": 1000.0})
        facts.append({**step, "what": "busy", "model": model, "busy ms": ms / 2, "kernels": 7})
    facts += [
        {"step": "half", "what": "half outputs", "boxes": 0.01},
        {"step": "onnx", "what": "onnx", "failed": "Traceback\nRuntimeError: no provider"},
        {"step": "move", "left_out": "no time"},
    ]
    text = tables(facts)
    assert text.startswith("- failed: onnx onnx: RuntimeError: no provider\n- left out: move: no time\n")
    assert "| kernels | float16 | 5e-04 | 2e-04 | 3e-04 |" in text
    assert "| akconv kernels | 1.500 / 3.000 | 4.500 / 9.000 | 6.000 / 12.000 | 1.50 / 1.50 | 18.00 | 1.50 |" in text
    assert "| 16 | 50.00 | 60.00 | 58.0 to 63.0 | 1.19 | 1.15 |" in text
    assert "| yolov8n-akconv.yaml | chosen | True | 108.00 | 1.08 | 54.00 | 1.08 | 7 | 1000.00 | 1.0000 |" in text
    assert text.endswith("- half outputs: boxes 0.01\n")


# CUDA, where there is none: calls that a machine without a GPU would otherwise make for the first time on the day


class Event:
    """An event of CUDA that is a millisecond after the last one recorded."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.now += 1.0
        self.time = Event.now

    def elapsed_time(self, end):
        return end.time - self.time


@pytest.fixture
def card(monkeypatch):
    """A card whose tensors are on the CPU; what is asked of it is written down."""
    asked = []
    answers = {"synchronize": None, "reset_peak_memory_stats": None, "max_memory_allocated": 3 * 2**20}
    answers |= {"mem_get_info": (10**9, 8 * 10**10), "empty_cache": None, "set_device": None}
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, n=name, v=value: asked.append((n, *device)) or v)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device, **options: empty(*size, **options))
    monkeypatch.setattr(clock, "_CACHE", 64)
    return asked


GPU = torch.device("cuda", 0)


def test_times_of_a_card_are_those_between_its_events_after_the_caches_were_emptied(card):
    ran = []
    times = clock.milliseconds({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, GPU, rounds=3, warmup=1)
    assert ran == ["a", "b"] * 4
    assert times["b"].median == times["b"].ratio == 1.0
    assert ("synchronize",) in card


def test_a_training_step_on_a_card_counts_the_peak_after_the_first_runs(card):
    ran = []
    facts = clock.step_times(lambda: ran.append(1), GPU, repeats=4, warmup=2)
    assert len(ran) == 1 + 1 + 2 + 4
    assert facts["peak MB"] == 3.0 and facts["runs"] == 4
    assert card.index(("reset_peak_memory_stats", GPU)) < card.index(("max_memory_allocated", GPU))


def test_busy_time_counts_kernels_and_neither_annotations_nor_the_cpu(card, monkeypatch):
    def event(name, where, us, annotation=False):
        span = SimpleNamespace(elapsed_us=lambda: us)
        return SimpleNamespace(device_type=where, name=name, time_range=span, is_user_annotation=annotation)

    kind = torch.autograd.DeviceType
    events = [event("gemm", kind.CUDA, 1500), event("void k<{lambda()#1}>", kind.CUDA, 500)]
    events += [event("aten::mm", kind.CPU, 9e6), event("Optimizer.step#SGD.step", kind.CUDA, 9e6)]
    events += [event("mine", kind.CUDA, 9e6, annotation=True)]

    class Profile:
        def __init__(self, activities):
            assert activities == [torch.profiler.ProfilerActivity.CUDA]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.events = lambda: events

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    assert clock.busy_milliseconds(lambda: None, GPU) == {"busy ms": 2.0, "kernels": 2}


def test_a_card_with_too_little_memory_leaves_the_large_batch_out(card, tmp_path):
    found = exactness._large(a_run(tmp_path, device=GPU), exactness.Case((40, 64, 1024, 1024)), "kernels")
    assert found == {"left_out": "27 GB of memory needed"}


def test_what_cuda_says_of_a_card_is_told(card, monkeypatch):
    about = SimpleNamespace(name="H100", major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    assert exactness._card(GPU) == {
        "name": "H100", "capability": "9.0", "processors": 132, "GB": 80.0, "free GB": 1.0, "cudnn": 91002
    }  # fmt: skip


def test_a_step_that_spoils_the_device_ends_the_process_with_3(card, tmp_path, monkeypatch):
    def spoilt(*device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(steps_process, "find_device", lambda name: GPU)
    monkeypatch.setattr(steps_process, "STEPS", {"one": Step(lambda run: None, 1, ""), "two": Step(spoilt, 1, "")})
    arguments = [Settings("cuda").to_json(), str(tmp_path), str(tmp_path), "one=9", "two=9"]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)
    assert steps_process.main(arguments) == 0
    assert ("set_device", GPU) in card and ("empty_cache",) in card
    monkeypatch.setattr(torch.cuda, "synchronize", spoilt)
    assert steps_process.main(arguments) == 3
