# SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole operator in the forms that runtimes are fast in, and the choice between them while a model is traced.

No form serves every runtime: `docs/results/export.md` holds what was measured. Which one a trace gets is set from
outside, for the time of an export and in its context alone; a trace without it gets the plain formula of `gather`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from torch import Tensor

from ultralytics_akconv.functional.forms.bag import bag_akconv2d
from ultralytics_akconv.functional.forms.deform import deform_akconv2d, load_operator
from ultralytics_akconv.functional.forms.gathers import FLAT, LOOKUP, OUTER, OUTER_FIXED, gather_akconv2d
from ultralytics_akconv.functional.forms.grid import grid_akconv2d
from ultralytics_akconv.functional.gather import PLAIN
from ultralytics_akconv.functional.tracing import is_exported

# Name -> (x, offset, weight, bias, points, stride, border) -> output; the arguments of `akconv2d` in another order.
FORMS: dict[str, Callable[..., Tensor]] = {
    "bag": bag_akconv2d,
    "deform": deform_akconv2d,
    "flat": partial(gather_akconv2d, how=FLAT),
    "gather": partial(gather_akconv2d, how=PLAIN),
    "grid": grid_akconv2d,
    "lookup": partial(gather_akconv2d, how=LOOKUP),
    "outer": partial(gather_akconv2d, how=OUTER),
    "outer-fixed": partial(gather_akconv2d, how=OUTER_FIXED),
}

_choice: ContextVar[Callable[[], str] | None] = ContextVar("akconv_export_form", default=None)


@contextmanager
def export_form(choose: Callable[[], str]) -> Iterator[None]:
    """Let traces within the context use the form that `choose` names when they come to a layer.

    Args:
        choose: Returns a name of `FORMS`; asked at every layer, since an exporter settles its arguments after it has
            started.
    """
    load_operator()  # whatever is chosen: that may be settled within the trace alone
    token = _choice.set(choose)
    try:
        yield
    finally:
        _choice.reset(token)


def traced_form() -> Callable[..., Tensor] | None:
    """Return the form that the layer being traced is to use; None where nothing traces, or nothing was chosen.

    Raises:
        ValueError: If the form asked for does not exist.
    """
    choose = _choice.get() if is_exported() else None  # compilers never come to the context variable
    if choose is None:
        return None
    name = choose()
    if name not in FORMS:
        raise ValueError(f"the form of an export must be one of {', '.join(FORMS)}, got {name!r}")
    return FORMS[name]
