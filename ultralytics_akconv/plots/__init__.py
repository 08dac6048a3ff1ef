# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures of shapes, learned offsets and training. Every function returns a matplotlib figure; nothing is shown.

Save a figure in any format: `figure.savefig("offsets.svg")`. No display is needed.
"""

from ultralytics_akconv.plots.ablation import plot_ablation
from ultralytics_akconv.plots.offsets import plot_field, plot_histogram, plot_offsets
from ultralytics_akconv.plots.samples import LayerSamples, Samples, image_samples
from ultralytics_akconv.plots.shapes import GALLERY, plot_shapes
from ultralytics_akconv.plots.training import plot_training

__all__ = (
    "GALLERY",
    "LayerSamples",
    "Samples",
    "image_samples",
    "plot_ablation",
    "plot_field",
    "plot_histogram",
    "plot_offsets",
    "plot_shapes",
    "plot_training",
)
