# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints of copies of the host with AKConv pasted into them, read without the copy; nothing in them is run."""

from ultralytics_akconv.forks.proof import Proof
from ultralytics_akconv.forks.rebuild import ForkImport, from_fork
from ultralytics_akconv.forks.records import CheckpointError
from ultralytics_akconv.forks.rows import LayerReport

__all__ = ("CheckpointError", "ForkImport", "LayerReport", "Proof", "from_fork")
