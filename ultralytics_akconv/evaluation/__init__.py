# SPDX-License-Identifier: AGPL-3.0-or-later
"""The columns of the paper's tables for any dataset: AP by COCO rules beside the host's own metrics, size and latency.

Predictions come from the host's validator, and so do all figures of other tasks than the detection of boxes.
"""

from ultralytics_akconv.evaluation.coco import coco_metrics
from ultralytics_akconv.evaluation.figures import SIZES, Evaluation, TaskEvaluation, markdown
from ultralytics_akconv.evaluation.measure import check_evaluation, evaluate, score_name

__all__ = (
    "SIZES",
    "Evaluation",
    "TaskEvaluation",
    "check_evaluation",
    "coco_metrics",
    "evaluate",
    "markdown",
    "score_name",
)
