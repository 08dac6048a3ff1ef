# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trainings side by side: models x numbers of points x shapes x seeds on one dataset, and what comes out."""

from ultralytics_akconv.sweep.plan import Cell, Plan
from ultralytics_akconv.sweep.results import write_report
from ultralytics_akconv.sweep.run import ENGINES, run_sweep
from ultralytics_akconv.sweep.settings import PRESETS, host_arguments, model_file

__all__ = ("ENGINES", "PRESETS", "Cell", "Plan", "host_arguments", "model_file", "run_sweep", "write_report")
