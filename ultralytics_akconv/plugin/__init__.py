# SPDX-License-Identifier: AGPL-3.0-or-later
"""Puts AKConv into the host: rows its parser takes, names its look-up finds, and the patches that do it.

Every patch of the host is set by `registration`; what is put there lies with what it is about: `rows` and `names` here,
the loading of weights in `conversion`, the exporter's call in `exports`, the callbacks of a training in `callbacks`.
"""

from ultralytics_akconv.plugin.faults import RowError
from ultralytics_akconv.plugin.registration import register, unregister

__all__ = ("RowError", "register", "unregister")
