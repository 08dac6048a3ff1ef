# SPDX-License-Identifier: AGPL-3.0-or-later
"""Others in one process: plug-ins that replace what we replace, and forks with an AKConv of theirs."""

import functools
import importlib.util

import pytest
import ultralytics.nn.tasks as tasks
from conftest import built, layers_of, yolov8_dict
from interpreters import printed
from ultralytics.utils import callbacks as host_callbacks
from ultralytics.utils import checks

import ultralytics_akconv_startup
from ultralytics_akconv import callbacks, graft, modules, register, unregister
from ultralytics_akconv.grafting.names import host_models
from ultralytics_akconv.plugin import registration


@pytest.fixture(autouse=True)
def _as_it_was():
    """Put back whatever a test leaves of the functions that several replace."""
    places = [(tasks, "parse_model"), (tasks, "check_yaml"), (tasks.BaseModel, "load")]
    places.append((host_callbacks, "get_default_callbacks"))
    unregister()
    hosts = [getattr(owner, name) for owner, name in places]
    register()
    yield
    unregister()
    for (owner, name), host in zip(places, hosts):
        setattr(owner, name, host)
    register()


def wrapped(function, seen, *, told=True):
    """Return a function around another, as a plug-in of somebody else's puts it there."""

    def call(*args, **kwargs):
        seen.append(function)
        return function(*args, **kwargs)

    return functools.wraps(function)(call) if told else call


def ours_at_work():
    every = host_callbacks.get_default_callbacks()
    once = every["on_train_epoch_end"].count(callbacks.log_offsets)
    return bool(tasks.check_yaml("yolov8-akconv.yaml", hard=False)), once


@pytest.mark.parametrize("told", [True, False], ids=["wraps", "plain"])
def test_what_others_put_around_ours_outlives_unregister_and_register(monkeypatch, told):
    seen = []
    theirs = wrapped(tasks.check_yaml, seen, told=told), wrapped(host_callbacks.get_default_callbacks, seen, told=told)
    tasks.check_yaml, host_callbacks.get_default_callbacks = theirs
    for _ in range(2):
        assert ours_at_work() == (True, 1)
        unregister()
        assert (tasks.check_yaml, host_callbacks.get_default_callbacks) == theirs
        assert ours_at_work() == (False, 0)
        assert tasks.check_yaml("yolov8.yaml") == checks.check_yaml("yolov8.yaml")
        register()
        register()
    assert ours_at_work() == (True, 1)
    assert len(seen) >= 10


def test_others_who_leave_between_our_unregister_and_register_leave_ours_alone_there():
    ours = tasks.check_yaml
    tasks.check_yaml = wrapped(ours, [])
    unregister()
    tasks.check_yaml = ours  # what stood there when they came
    assert ours_at_work() == (False, 0)
    register()
    assert tasks.check_yaml is ours and ours_at_work() == (True, 1)
    unregister()
    assert tasks.check_yaml is checks.check_yaml


@pytest.mark.parametrize("first", [True, False], ids=["came before us", "kept it from before"])
def test_others_who_put_the_hosts_own_back_are_made_up_for_and_told_of_by_register(first, monkeypatch):
    said = []
    monkeypatch.setattr("ultralytics_akconv.plugin.registration.LOGGER.warning", said.append)
    unregister()
    host = tasks.check_yaml
    tasks.check_yaml = wrapped(host, []) if first else host
    register()
    tasks.check_yaml = host
    assert ours_at_work()[0] is False
    register()
    assert ours_at_work() == (True, 1)
    register()
    assert [line.split(" to what")[0] for line in said] == ["AKConv: ultralytics.nn.tasks.check_yaml had been set back"]


@pytest.mark.parametrize("told", [True, False], ids=["wraps", "plain"])
@pytest.mark.parametrize("first", [True, False], ids=["theirs below", "theirs above"])
def test_rows_and_blocks_are_built_with_somebody_elses_function_around_the_parser(first, told):
    seen = []
    if first:
        unregister()
    tasks.parse_model = wrapped(tasks.parse_model, seen, told=told)
    register()
    assert len(layers_of(built(yolov8_dict()))) == 6
    model = yolov8_dict(name=None)
    for row in model["backbone"] + model["head"]:
        if row[2] == "C2f":
            row[2], row[3] = "C2f_AKConv", [*row[3], {"num_param": 3}]
    names = {name: getattr(tasks, name) for name in modules.BLOCKS}
    assert {layer.num_param for layer in layers_of(built(model))} == {3}
    assert {name: getattr(tasks, name) for name in modules.BLOCKS} == names
    assert len(seen) == 2
    with pytest.raises(ValueError, match=r"layer 1 \[-1, 1, 'AKConv', \[128, 0, 2\]\].*num_param must be"):
        built(yolov8_dict(0, 2))


def test_a_graft_with_c3k2_blocks_has_its_head_under_a_foreign_wrapper_too(tmp_path):
    if "yolo11.yaml" not in host_models():
        pytest.skip("this host has no YOLO11")
    (tmp_path / "yolo11n-blocks.yaml").write_text(graft("yolo11n.yaml", where="blocks"), "utf-8")
    plain = tasks.DetectionModel(str(tmp_path / "yolo11n-blocks.yaml"), verbose=False)
    unregister()
    tasks.parse_model = wrapped(tasks.parse_model, [])
    register()
    under = tasks.DetectionModel(str(tmp_path / "yolo11n-blocks.yaml"), verbose=False)
    assert [str(m) for m in under.modules()] == [str(m) for m in plain.modules()]


def test_what_waits_for_the_registration_gives_way_to_ours_and_not_to_the_hosts_for_a_moment(monkeypatch):
    unregister()
    host = host_callbacks.get_default_callbacks
    ultralytics_akconv_startup._wait_at_use(tasks)
    waiting, seen = host_callbacks.get_default_callbacks, []
    look = lambda tasks: seen.append(host_callbacks.get_default_callbacks)  # noqa: E731
    monkeypatch.setattr(registration, "_tell_of_others", look)
    register()
    assert waiting is not host and seen == [waiting]  # another thread may ask at any moment
    assert host_callbacks.get_default_callbacks not in (host, waiting) and not ultralytics_akconv_startup._waiting
    unregister()
    assert host_callbacks.get_default_callbacks is host


@pytest.mark.slow
@pytest.mark.parametrize("leaves", ["ours", "theirs"])
@pytest.mark.parametrize("order", [("ultralytics_akconv", "esmoe"), ("esmoe", "ultralytics_akconv")], ids=str)
def test_esmoe_and_this_plug_in_work_in_one_process_in_either_order(fresh, tmp_path, order, leaves):
    if importlib.util.find_spec("esmoe") is None:
        pytest.skip("esmoe is not installed")
    code = f"""
import torch
import {order[0]}
import {order[1]}
import esmoe, ultralytics_akconv
import ultralytics.nn.tasks as tasks
from ultralytics import YOLO
host = tasks.BaseModel.__dict__['loss']
model = esmoe.equip('yolov8n-akconv.yaml', out={str(tmp_path / "yolov8n-akconv-esmoe.yaml")!r})
def count(model):
    names = [type(m).__name__ for m in model.model.modules()]
    return names.count('AKConv'), names.count('ESMoE') > 0
print(*count(model))
out = model.model.train()(torch.rand(2, 3, 64, 64))
if {leaves!r} == 'ours':
    ultralytics_akconv.unregister()
    print(hasattr(tasks, 'AKConv'), hasattr(tasks, 'ESMoE'), tasks.BaseModel.loss is not host)
    ultralytics_akconv.register()
else:
    del tasks.ESMoE
    tasks.BaseModel.loss = host
    print(hasattr(tasks, 'AKConv'), hasattr(tasks, 'ESMoE'), tasks.BaseModel.loss is not host)
print(*count(YOLO('yolov8n-akconv.yaml')))
"""
    there = "False True True" if leaves == "ours" else "True False False"
    assert printed(fresh(code))[-3:] == ["6 True", there, "6 False"]


def test_a_fork_with_an_akconv_of_its_own_is_told_whose_is_built_and_how_to_keep_its_own(monkeypatch, caplog):
    class AKConv(tasks.Conv):
        pass

    class C2f_AKConv(tasks.C2f):
        pass

    unregister()
    monkeypatch.setattr(tasks, "AKConv", AKConv, raising=False)
    monkeypatch.setattr(tasks, "C2f_AKConv", C2f_AKConv, raising=False)
    caplog.clear()
    register()
    register()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(
        "AKConv: YAML rows that name AKConv, C2f_AKConv build the layers of ultralytics-akconv, not "
        "test_neighbours.AKConv, test_neighbours.C2f_AKConv, which this Ultralytics has of its own; "
        "ULTRALYTICS_AKCONV=0 keeps those"
    )
    assert len(layers_of(built(yolov8_dict()))) == 6
    unregister()
    assert tasks.AKConv is AKConv
    monkeypatch.undo()
