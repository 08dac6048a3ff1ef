# SPDX-License-Identifier: AGPL-3.0-or-later
"""Any model YAML of the host as the same model with AKConv in it, and the names under which the host finds them."""

from ultralytics_akconv.graft.edit import MADE_BY, graft
from ultralytics_akconv.graft.layers import Layer
from ultralytics_akconv.graft.lookup import model_yaml, resolvable_models
from ultralytics_akconv.graft.names import find_model, near_grafted

__all__ = ("MADE_BY", "Layer", "find_model", "graft", "model_yaml", "near_grafted", "resolvable_models")
