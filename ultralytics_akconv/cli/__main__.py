# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lets `python -m ultralytics_akconv.cli` stand for `akconv`."""

import sys

from ultralytics_akconv.cli import main

sys.exit(main())
