# SPDX-License-Identifier: AGPL-3.0-or-later
"""The facts of a run as the tables of a manual page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ultralytics_akconv.evaluation import markdown
from ultralytics_akconv.gpu.exactness import RESULTS
from ultralytics_akconv.gpu.models import PLAIN

_OWN = {"time", "step", "what", "started", "seconds", "failures"}
_TABLES = {"errors", "layers", "model"}
_CONV = "conv 3x3"


def tables(facts: list[dict[str, Any]]) -> str:
    """Return Markdown: what failed, the machine, errors, layers, sampling, the model, and a line for other facts."""
    parts = [_failures(facts), _machine(facts), _errors(facts), _layers(facts), _sampling(facts)]
    parts += [_in_turn(facts), _model(facts), _rest(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _of(facts: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return the facts of one kind that hold figures."""
    return [fact for fact in facts if fact.get("what") == what and not {"failed", "left_out"} & set(fact)]


def _failures(facts: list[dict[str, Any]]) -> str:
    """Return what failed or was left out, a line each; the last line of an error alone."""
    lines = []
    for fact in facts:
        for kind in {"failed", "left_out"} & set(fact):
            about = " ".join(str(value) for key, value in fact.items() if key not in {*_OWN, kind})
            where = f"{fact['step']} {fact.get('what', '')} {about}".strip()
            lines.append(f"- {kind.replace('_', ' ')}: {where}: {fact[kind].splitlines()[-1]}")
    return "\n".join(lines)


def _machine(facts: list[dict[str, Any]]) -> str:
    """Return card and versions in a line."""
    shown = [fact for fact in facts if fact["step"] == "machine" and "what" in fact]
    return "; ".join(_pairs(fact) for fact in shown if not {"failed", "left_out"} & set(fact))


def _pairs(fact: dict[str, Any]) -> str:
    """Return a fact in a line."""
    told = {key: value for key, value in fact.items() if key not in _OWN and value not in (None, {}, [])}
    return ", ".join(f"{key} {value}" for key, value in told.items())


def _errors(facts: list[dict[str, Any]]) -> str:
    """Return the largest errors by path and dtype, over all borders."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for fact in _of(facts, "error"):
        row = rows.setdefault((fact["path"], fact["dtype"]), {"path": fact["path"], "dtype": fact["dtype"][6:]})
        for name in RESULTS:
            row[name] = max(row.get(name, 0.0), fact[name])
    return markdown([{key: _figure(value) for key, value in row.items()} for row in rows.values()]) if rows else ""


def _figure(value: Any) -> Any:
    """Return an error as it is read."""
    return f"{value:.0e}" if isinstance(value, float) else value


def _layers(facts: list[dict[str, Any]]) -> str:
    """Return a line a peer: its times on each layer, forward / training, the sums of all six, and x Conv.

    A profiler has told besides how long the card was at work for a training step of all six.
    """
    measured = _of(facts, "layer")
    names = _unique(fact["layer"] for fact in measured)
    rows = []
    for peer in _unique(fact["peer"] for fact in measured):
        own = {fact["layer"]: fact for fact in measured if fact["peer"] == peer}
        row: dict[str, Any] = {"peer": peer}
        row |= {name: _two(own[name]) if name in own else None for name in names}
        row |= dict.fromkeys(("all", "x conv", "busy", "x conv, busy"))  # of all layers only
        conv = [fact for fact in measured if fact["peer"] == _CONV]
        if len(own) == len(conv) == len(names):
            sums = {key: sum(fact[key] for fact in own.values()) for key in ("forward ms", "training ms")}
            row["all"] = _two(sums)
            row["x conv"] = " / ".join(f"{sums[key] / sum(fact[key] for fact in conv):.2f}" for key in sums)
            row["busy"] = _busy(facts, peer)
            row["x conv, busy"] = _quotient(row["busy"], _busy(facts, _CONV))
        rows.append(row)
    return f"Layers, ms, forward / forward and backward:\n\n{markdown(rows)}" if rows else ""


def _busy(facts: list[dict[str, Any]], peer: str) -> float | None:
    """Return the milliseconds at work of a peer on all layers."""
    own = [fact for fact in _of(facts, "layer busy") if peer == " ".join(filter(None, (fact["kind"], fact["path"])))]
    return round(sum(fact["busy ms"] for fact in own), 3) if own else None


def _two(fact: dict[str, Any]) -> str:
    """Return the two times of a layer."""
    return f"{fact['forward ms']:.3f} / {fact['training ms']:.3f}"


def _sampling(facts: list[dict[str, Any]]) -> str:
    """Return times and bandwidths of the sampling alone."""
    keys = ("layer", "path", "forward ms", "forward GB/s", "backward ms", "backward GB/s")
    rows = [{key: fact[key] for key in keys} for fact in _of(facts, "sampling")]
    return f"Sampling alone:\n\n{markdown(rows)}" if rows else ""


def _in_turn(facts: list[dict[str, Any]]) -> str:
    """Return the training steps of the two models that took turns, a line a batch."""
    rows = []
    for fact in _of(facts, "steps in turn"):
        row = {"batch": fact["batch"], "plain ms": fact["plain ms"], "akconv ms": fact["akconv ms"]}
        row |= {"quartiles": f"{fact['low ms']} to {fact['high ms']}", "x plain": fact["x plain"]}
        rows.append({**row, "x plain, busy": _quotient(fact["akconv busy ms"], fact["plain busy ms"])})
    return f"Training step, plain and AKConv in turn:\n\n{markdown(rows)}" if rows else ""


def _model(facts: list[dict[str, Any]]) -> str:
    """Return the training steps with their ratios to the plain model of the same `deterministic`."""
    key = ("model", "path", "deterministic", "published")
    busy = {tuple(fact[k] for k in key): fact for fact in _of(facts, "busy")}
    steps = _of(facts, "training step")
    rows = []
    for fact in steps:
        identity = tuple(fact[k] for k in key)
        plain = next((f for f in steps if f["model"] == PLAIN and f["deterministic"] == fact["deterministic"]), {})
        row = {"model": fact["model"], "path": "as published" if fact["published"] else fact["path"] or "chosen"}
        row |= {"deterministic": str(fact["deterministic"]), "ms": fact["ms"], "x plain": _ratio(fact, plain, "ms")}
        own, other = busy.get(identity, {}), busy.get(tuple(plain.get(k) for k in key), {})
        row |= {"busy ms": own.get("busy ms"), "x plain, busy": _ratio(own, other, "busy ms")}
        row |= {"kernels": own.get("kernels"), "peak MB": fact.get("peak MB")}
        rows.append({**row, "x plain, peak": _ratio(fact, plain, "peak MB")})
    return f"Training step:\n\n{markdown(rows)}" if rows else ""


def _ratio(fact: dict[str, Any], plain: dict[str, Any], key: str) -> float | None:
    """Return a ratio, None where one of the two was not measured."""
    return _quotient(fact.get(key), plain.get(key))


def _quotient(ours: float | None, plain: float | None) -> float | None:
    """Return one figure by the other, None where one of them is missing or 0."""
    return round(ours / plain, 3) if ours and plain else None


def _rest(facts: list[dict[str, Any]]) -> str:
    """Return all other facts, a line each."""
    others = [fact for fact in facts if fact["step"] not in {*_TABLES, "machine"} and "what" in fact]
    lines = [f"- {fact['what']}: {_pairs(fact)}" for fact in others if not {"failed", "left_out"} & set(fact)]
    return "\n".join(lines)


def _unique(names: Iterable[str]) -> list[str]:
    """Return names in the order in which they come first."""
    return list(dict.fromkeys(names))
