# SPDX-License-Identifier: AGPL-3.0-or-later
"""The figures of an evaluation, and how they are told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ultralytics_akconv.markdown import markdown_table

SIZES = ("parameters", "gflops", "latency", "images")  # figures of an evaluation that are no scores


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns. AP... by COCO rules (None: no such object), the rest as the host measures it."""

    AP50: float | None
    AP75: float | None
    AP: float | None
    APS: float | None
    APM: float | None
    APL: float | None
    precision: float
    recall: float
    mAP50: float
    mAP: float
    parameters: int
    gflops: float  # of one image at `imgsz`
    latency: float  # ms an image: preprocessing, inference and postprocessing in the validator's batches
    images: int
    ground_truth: str  # "labels", or the name of the original annotations file

    def figures(self) -> dict[str, Any]:
        """Return all figures by name."""
        return asdict(self)

    def table(self) -> str:
        """Return all figures as a Markdown table of one line."""
        return markdown([self.figures()])


@dataclass(frozen=True)
class TaskEvaluation:
    """What `evaluate` returns for a model that does not detect boxes, or not boxes alone: the host's own metrics.

    Attributes:
        scores: By name: precision, recall, mAP50 and mAP of boxes, the same of masks (`mask_mAP`) or poses
            (`pose_mAP`), or top1 and top5 of classes.
    """

    scores: dict[str, float]
    parameters: int
    gflops: float
    latency: float
    images: int

    def figures(self) -> dict[str, Any]:
        """Return all figures by name."""
        rest = asdict(self)
        return {**rest.pop("scores"), **rest}

    def table(self) -> str:
        """Return all figures as a Markdown table of one line."""
        return markdown([self.figures()])


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows of the same keys as a Markdown table; None becomes a dash."""
    return markdown_table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows], rules=" --- ")


def _cell(value: object) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
