# SPDX-License-Identifier: AGPL-3.0-or-later
"""What becomes of an attribute that is put a second time: by what stands there by then."""

import importlib.util
import sys
from types import ModuleType

import pytest

import ultralytics_akconv_startup
from ultralytics_akconv.plugin.patches import Patches

STARTUP = "ultralytics_akconv_startup"
NAME = "ultralytics.fake"  # functions of the host are told by the name of their module


def executed(module):
    """Execute a module of the host, for the first time or again, as `importlib.reload` does."""
    module.__spec__ = importlib.util.spec_from_loader(NAME, None)
    exec("def ask(text):\n    return [text, 'host']\nLIMIT = 3", vars(module))
    return module


@pytest.fixture
def host():
    return executed(ModuleType(NAME))


@pytest.fixture
def patches():
    return Patches()


def ours(before):
    return lambda text: [*before(text), "ours"]


def theirs(before):
    return lambda text: [*before(text), "theirs"]


def test_what_stands_there_is_replaced_and_put_back(patches, host):
    before = host.ask
    patches.put(host, "ask", ours)
    patches.put(host, "LIMIT", lambda before: before + 1)
    patches.put(host, "new", lambda before: "ours")
    assert (host.ask("a"), host.LIMIT, host.new) == (["a", "host", "ours"], 4, "ours")
    assert host.ask.__name__ == "ask"
    patches.undo()
    assert (host.ask, host.LIMIT, hasattr(host, "new")) == (before, 3, False)


def test_where_ours_is_at_work_nothing_is_done(patches, host):
    patches.put(host, "ask", ours)
    first = host.ask
    patches.put(host, "ask", ours)
    assert host.ask is first
    host.ask = outer = theirs(host.ask)  # somebody's own, which calls ours
    patches.put(host, "ask", ours)
    assert host.ask is outer and host.ask("a") == ["a", "host", "ours", "theirs"]
    assert patches.taken() == []


def test_a_class_of_somebody_elses_in_the_place_of_ours_gives_way_and_comes_back(patches, host):
    class Theirs:
        """Nothing of ours is called by it."""

    patches.put(host, "Layer", lambda before: int)
    host.Layer = Theirs
    patches.put(host, "Layer", lambda before: int)
    assert host.Layer is int and patches.taken() == []
    patches.undo()
    assert host.Layer is Theirs


def test_the_hosts_own_that_was_set_back_is_replaced_again_and_told_once(patches, host):
    before = host.ask
    patches.put(host, "ask", ours)
    first = host.ask
    host.ask = before
    patches.put(host, "ask", ours)
    assert host.ask is first and host.ask("a") == ["a", "host", "ours"]
    assert patches.taken() == [f"{NAME}.ask"]
    assert patches.taken() == []


def test_a_module_that_was_executed_again_is_patched_anew_without_a_word(patches, host):
    patches.put(host, "ask", ours)
    kept = host.ask
    executed(host)
    patches.put(host, "ask", ours)
    assert host.ask("a") == ["a", "host", "ours"] and host.ask is not kept
    assert kept("a") == ["a", "host"]  # should somebody still call it, ours is not done twice
    assert patches.taken() == []
    patches.undo()
    assert host.ask("a") == ["a", "host"]


def test_what_was_undone_is_switched_on_again_wherever_it_stands(patches, host):
    patches.put(host, "ask", ours)
    host.ask = outer = theirs(host.ask)
    patches.undo()
    assert host.ask is outer and host.ask("a") == ["a", "host", "theirs"]
    patches.put(host, "ask", ours)
    assert host.ask("a").count("ours") == 1 and "theirs" in host.ask("a")


def test_the_start_up_module_loaded_anew_finds_its_finder(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    ultralytics_akconv_startup.install()
    before = [*sys.meta_path]
    anew = importlib.util.module_from_spec(importlib.util.find_spec(STARTUP))
    anew.__spec__.loader.exec_module(anew)
    anew.install()
    assert sys.meta_path == before


def test_a_function_that_is_not_there_is_refused_and_nothing_is_set(patches, host):
    with pytest.raises(AttributeError, match="other"):
        patches.wrap(host, "other", ours)
    assert not hasattr(host, "other")
