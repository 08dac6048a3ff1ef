# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether this installation works: versions, the plug-in, the devices, the path a layer takes there and its time."""

from ultralytics_akconv.checks.environment import Finding
from ultralytics_akconv.checks.installation import check_installation

__all__ = ("Finding", "check_installation")
