# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run as a file by any Python, `python probe.py`: prints as JSON whether a bare `yolo` of that Python has the plug-in.

Standard library and the host only, and Python 3.8: it may be a Python in which this package is not installed. The last
line of its output is the answer; the host may say something before.
"""

import json
import os
import site
import sys

sys.path.pop(0)  # this folder; a `yolo` has its own there, which holds no modules


def start_up_file():
    """Return the file by which this Python starts the plug-in, None without one."""
    suffixes = (".start", ".pth") if sys.version_info >= (3, 15) else (".pth",)
    folders = site.getsitepackages() if hasattr(site, "getsitepackages") else []
    folders = [*folders, site.getusersitepackages()] if site.ENABLE_USER_SITE else folders
    files = [os.path.join(folder, f"ultralytics_akconv{suffix}") for suffix in suffixes for folder in folders]
    return next((file for file in files if os.path.isfile(file)), None)


def main():
    """Import the host as `yolo` does and look whether AKConv is in it."""
    startup = sys.modules.get("ultralytics_akconv_startup")
    answer = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "file": start_up_file(),
        "started": startup is not None,
        "enabled": startup is None or startup.enabled(),
        "active": False,
        "reason": None,
    }
    try:
        import ultralytics
        import ultralytics.nn.tasks as tasks

        answer["host"] = getattr(ultralytics, "__version__", "of no version")
        layer = getattr(tasks, "AKConv", None)
        answer["active"] = isinstance(layer, type)
        if layer is not None and not answer["active"]:
            layer()  # what stands there instead raises the reason
    except Exception as error:  # whatever it is, it is what a `yolo` would end with
        answer["reason"] = f"{error}" if answer.get("host") else f"{type(error).__name__}: {error}"
    print(json.dumps(answer))


main()
