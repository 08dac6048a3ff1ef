# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `host_tests.py` puts beside Ultralytics' tests as a plug-in of pytest; it knows nothing of the package.

How each test ended goes into a file, with the words of a failure; one that takes too long is stopped; and what
`yolo settings reset` in one of them takes from the settings of the arm comes back.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

FILE, SECONDS = Path(os.environ["HOST_TESTS_OUTCOMES"]), int(os.environ["HOST_TESTS_SECONDS"])
SETTINGS = Path(os.environ["YOLO_CONFIG_DIR"], "Ultralytics/settings.json")
KEPT = SETTINGS.read_text("utf-8")
STOPPED = f"STOPPED: not ended in {SECONDS} seconds"


def stop(*_) -> None:
    """Fail the test that runs, with an exception that `except Exception` in it does not catch."""
    pytest.fail(STOPPED, pytrace=False)


@pytest.hookimpl(hookwrapper=True)
def watched(item):
    """Stop what a test or its fixtures do after the time, where the system has the signal for it."""
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, SECONDS, 10)  # again, if somebody catches the first
    yield
    if hasattr(signal, "SIGALRM"):
        signal.setitimer(signal.ITIMER_REAL, 0)


pytest_runtest_setup = pytest_runtest_call = watched


def pytest_runtest_logreport(report) -> None:
    """Add a row about a test, or a second one if its teardown fails."""
    if report.when != "call" and report.passed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    words = " ".join(str(crash.message if crash else report.longrepr).split()) if report.failed else ""
    outcome = "error" if report.failed and report.when != "call" else report.outcome
    outcome = "stopped" if STOPPED in words else outcome
    row = {"name": report.nodeid, "outcome": outcome, "seconds": round(report.duration, 1), "words": words[:500]}
    with FILE.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    if not SETTINGS.exists() or SETTINGS.read_text("utf-8") != KEPT:
        SETTINGS.write_text(KEPT, "utf-8")
