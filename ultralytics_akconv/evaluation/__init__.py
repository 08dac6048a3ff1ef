# SPDX-License-Identifier: AGPL-3.0-or-later
"""The columns of the paper's tables for any dataset: AP by COCO rules beside the host's own metrics, size and latency.

Predictions come from the host's validator, and so do all figures of other tasks than the detection of boxes.
"""

from ultralytics_akconv.evaluation.coco import coco_metrics, from_labels
from ultralytics_akconv.evaluation.figures import Evaluation, TaskEvaluation, markdown
from ultralytics_akconv.evaluation.measure import check_evaluation, evaluate
from ultralytics_akconv.opening import host_model

__all__ = (
    "Evaluation",
    "TaskEvaluation",
    "check_evaluation",
    "coco_metrics",
    "evaluate",
    "from_labels",
    "host_model",
    "markdown",
)
