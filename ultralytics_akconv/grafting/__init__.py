# SPDX-License-Identifier: AGPL-3.0-or-later
"""Any model YAML of the host as the same model with AKConv in it, and the names under which the host finds them."""

from ultralytics_akconv.grafting.edit import MADE_BY, graft
from ultralytics_akconv.grafting.names import check_scale_letter, find_model, near_grafted
from ultralytics_akconv.grafting.resolve import model_yaml, resolvable_models
from ultralytics_akconv.grafting.selection import Layer

__all__ = (
    "MADE_BY",
    "Layer",
    "check_scale_letter",
    "find_model",
    "graft",
    "model_yaml",
    "near_grafted",
    "resolvable_models",
)
