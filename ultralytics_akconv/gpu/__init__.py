# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can only be known on a GPU, in one run of some minutes: the most important first, each fact written at once."""

from ultralytics_akconv.gpu.facts import Settings, read_facts
from ultralytics_akconv.gpu.paired import train_pairs
from ultralytics_akconv.gpu.run import run_steps
from ultralytics_akconv.gpu.steps import STEPS
from ultralytics_akconv.gpu.tables import tables

__all__ = ("STEPS", "Settings", "read_facts", "run_steps", "tables", "train_pairs")
