# SPDX-License-Identifier: AGPL-3.0-or-later
"""What AKConv costs on this machine: one layer and whole models, beside their peers, measured in one run."""

from ultralytics_akconv.benchmark.exports import FORMATS, benchmark_exports
from ultralytics_akconv.benchmark.measurements import Report
from ultralytics_akconv.benchmark.models import benchmark_models
from ultralytics_akconv.benchmark.operator import YOLOV8N_LAYERS, LayerSize, benchmark_layers

__all__ = (
    "FORMATS",
    "YOLOV8N_LAYERS",
    "LayerSize",
    "Report",
    "benchmark_exports",
    "benchmark_layers",
    "benchmark_models",
)
