# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv check`."""

from __future__ import annotations

import argparse


def add_check(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv check`."""
    parser.description = (
        "Prints versions, whether the plug-in is active, the devices, and the time of one layer, to be pasted into a "
        "bug report. Ends with exit status 1 if something is wrong."
    )
    parser.set_defaults(run=_run_check)


def _run_check(options: argparse.Namespace) -> None:
    """Print each finding as soon as it is there, then what is wrong."""
    from ultralytics_akconv.checks import check_installation  # here, since the check tells what does not import

    problems = []
    for finding in check_installation():
        print(f"{finding.name:<22}{finding.value}", flush=True)
        problems += [finding.problem] if finding.problem else []
    if problems:
        print("", *problems, sep="\n")
        raise ValueError(f"{len(problems)} problem{'s' * (len(problems) > 1)} found, see above")
    print("\nno problem found")
