# SPDX-License-Identifier: AGPL-3.0-or-later
"""Replaces attributes of the host and puts them back, beside others who replace the same ones before or after."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from ultralytics_akconv_startup import awaited

_MISSING = object()


class _Patch:
    """One attribute that was replaced. A function of ours hands on to what stood there before while it is off.

    So it may stay where it is when somebody's own function, which calls it, stands in its place.
    """

    def __init__(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        self.owner, self.name, self.on = owner, name, True
        self.spec = getattr(owner, "__spec__", None)  # a module has a new one after a reload
        self.before = awaited(getattr(owner, name, _MISSING))
        made = make(self.before)
        self.ours = self._switched(made) if inspect.isfunction(self.before) else made

    def _switched(self, made: Callable) -> Callable:
        """Return our function with its switch."""

        @functools.wraps(self.before)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (made if self.on else self.before)(*args, **kwargs)

        return call

    def now(self) -> Any:
        """Return what stands there at the moment."""
        return getattr(self.owner, self.name, _MISSING)

    def was_undone(self) -> bool:
        """Return whether the host's own stands there again: by a reload, or put back by somebody who came before us."""
        now = self.now()
        own = inspect.isfunction(now) and now.__globals__.get("__name__", "").partition(".")[0] == "ultralytics"
        return own or now is self.before

    def undo(self) -> None:
        """Switch ours off, and put back what was there, unless something else stands there by now."""
        self.on = False
        if self.now() is self.ours:
            if self.before is _MISSING:
                delattr(self.owner, self.name)
            else:
                setattr(self.owner, self.name, self.before)


class Patches:
    """All that is replaced. Hold `lock` around several calls that belong together; nothing may be imported in it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._made: list[_Patch] = []
        self._taken: list[str] = []

    def put(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Set an attribute to what `make` returns for what stands there now; nothing is done where ours is at work."""
        patch = next((patch for patch in self._made if patch.owner is owner and patch.name == name), None)
        if patch is not None:
            is_function = inspect.isfunction(patch.before)
            function_is_back = patch.now() is patch.before and is_function
            same = patch.now() is patch.ours
            undone = not same and patch.was_undone()
            if patch.on and is_function and not same and not undone:  # somebody's own calls ours; a class does not
                return
            spec = getattr(owner, "__spec__", None)
            if patch.on and undone and patch.spec is spec:  # else the module was executed again
                self._taken.append(f"{owner.__name__}.{name}")
            if same or function_is_back:  # others may have taken it under its name
                patch.on, patch.spec = True, spec
                setattr(owner, name, patch.ours)
                return
            patch.on = False  # should somebody still call it, then in vain: the new one does the work
            self._made.remove(patch)
        patch = _Patch(owner, name, make)
        setattr(owner, name, patch.ours)
        self._made.append(patch)

    def wrap(self, owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
        """Put a function of ours around one of the host's.

        Raises:
            AttributeError: If there is none.
        """
        getattr(owner, name)
        self.put(owner, name, make)

    def taken(self) -> list[str]:
        """Return, once, what somebody had set back to what stood there before ours, and `put` has replaced again."""
        taken, self._taken = self._taken, []
        return taken

    def undo(self) -> None:
        """Undo everything. All is remembered, to be switched on again wherever it stands by then."""
        for patch in reversed(self._made):
            patch.undo()
