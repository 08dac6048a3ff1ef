# SPDX-License-Identifier: AGPL-3.0-or-later
"""The process of the steps: `python -m ultralytics_akconv.gpu.worker SETTINGS OUTPUT WORK STEP=SECONDS ...`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ultralytics_akconv.benchmark.timing import find_device
from ultralytics_akconv.gpu.facts import Run, Settings, reason
from ultralytics_akconv.gpu.steps import STEPS


def main(arguments: Sequence[str]) -> int:
    """Run the steps in turn; return 0, or 3 if one has left the device unusable, and another process must go on."""
    settings, output, work = Settings(**json.loads(arguments[0])), Path(arguments[1]), Path(arguments[2])
    device = find_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for argument in arguments[3:]:
        step, _, seconds = argument.partition("=")
        run = Run(settings, step, device, output, work, float(seconds))
        run.say(started=True)
        start = time.monotonic()
        torch.manual_seed(0)
        try:
            STEPS[step].run(run)
        except Exception as error:  # the next step runs in any case
            run.failures += 1
            run.say(failed=reason(error))
        run.say(seconds=round(time.monotonic() - start, 1), failures=run.failures)
        if device.type == "cuda":
            try:
                torch.cuda.synchronize(device)
                torch.cuda.empty_cache()
            except RuntimeError:  # an illegal access stays with the process
                return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
