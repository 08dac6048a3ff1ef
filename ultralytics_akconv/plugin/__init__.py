# SPDX-License-Identifier: AGPL-3.0-or-later
"""Puts AKConv into the host: rows its parser takes, names its look-up finds, and the patches that do it.

Every patch that stays while the plug-in is registered is set and taken back by `registration`; what is put there lies
with what it is about: `rows` and `names` here, the loading of weights in `conversion`, the exporter's call in
`exports`, the callbacks of a training in `callbacks`.

Others last for a moment, and who sets them takes them back: the start-up module lets the host's first use wait for the
registration (if the package cannot be loaded, what says why stays), `rows` lets a block's name stand for ours while a
model is parsed, `movable` replaces `torch.jit.trace` during an export, `datasets` the host's downloads during a
conversion. Two things outlast `unregister`, since layers and checkpoints go on working: our classes among those that a
restricted load may build, and the rules that `paddle` has taught X2Paddle.
"""

from ultralytics_akconv.plugin.registration import register, unregister
from ultralytics_akconv.plugin.rows import RowError

__all__ = ("RowError", "register", "unregister")
