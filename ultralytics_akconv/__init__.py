# SPDX-License-Identifier: AGPL-3.0-or-later
"""AKConv (LDConv) for Ultralytics YOLO: importing this package makes the host's YAML parser know the layer.

With the package installed, a bare `yolo` activates it too; `ULTRALYTICS_AKCONV=0` switches both off.
"""

__version__ = "0.1.0"

from ultralytics_akconv.host import check_host

check_host()  # before anything of the host is imported, for an error that says what to do

import ultralytics.utils.callbacks  # noqa: E402, F401 - first, see `_wait_at_use` of the start-up module

from ultralytics_akconv.conversion import from_published, transfer, write_checkpoint  # noqa: E402
from ultralytics_akconv.forks import from_fork  # noqa: E402
from ultralytics_akconv.functional import akconv2d, resample, sampling_positions  # noqa: E402
from ultralytics_akconv.grafting import graft  # noqa: E402
from ultralytics_akconv.modules import BLOCKS, AKConv, LDConv  # noqa: E402
from ultralytics_akconv.shapes import SHAPES, sampling_points  # noqa: E402
from ultralytics_akconv_startup import enabled, install  # noqa: E402

# Last: the start-up module takes `register` for the sign that this import is finished.
from ultralytics_akconv.plugin import register, unregister  # noqa: E402 isort: skip

__all__ = (
    "BLOCKS",
    "SHAPES",
    "AKConv",
    "LDConv",
    "__version__",
    "akconv2d",
    "from_fork",
    "from_published",
    "graft",
    "register",
    "resample",
    "sampling_points",
    "sampling_positions",
    "transfer",
    "unregister",
    "write_checkpoint",
)

if enabled():
    install()
    register()
