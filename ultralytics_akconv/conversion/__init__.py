# SPDX-License-Identifier: AGPL-3.0-or-later
"""Weights of a model with ordinary convolutions, or of the published layout, for a model with AKConv."""

from ultralytics_akconv.conversion.checkpoint import check_output, write_checkpoint
from ultralytics_akconv.conversion.convert import transfer
from ultralytics_akconv.conversion.loading import converting_load
from ultralytics_akconv.conversion.published import from_published
from ultralytics_akconv.conversion.report import LayerReport, Transfer

__all__ = (
    "LayerReport",
    "Transfer",
    "check_output",
    "converting_load",
    "from_published",
    "transfer",
    "write_checkpoint",
)
