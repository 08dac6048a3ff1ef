# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trainings side by side: models x numbers of points x shapes x seeds on one dataset, and what comes out."""

from ultralytics_akconv.sweep.arms import Arm, read_arm
from ultralytics_akconv.sweep.differences import Difference, paired_difference, seeds_needed
from ultralytics_akconv.sweep.plan import Cell, Plan
from ultralytics_akconv.sweep.results import write_report
from ultralytics_akconv.sweep.run import ENGINES, run_sweep
from ultralytics_akconv.sweep.settings import PRESETS, host_arguments, model_file

__all__ = (
    "ENGINES",
    "PRESETS",
    "Arm",
    "Cell",
    "Difference",
    "Plan",
    "host_arguments",
    "model_file",
    "paired_difference",
    "read_arm",
    "run_sweep",
    "seeds_needed",
    "write_report",
)
