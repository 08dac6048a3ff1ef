# SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole check, from versions to the time of one layer."""

from __future__ import annotations

from collections.abc import Iterator

from ultralytics_akconv.checks.environment import Finding, plug_ins, versions


def check_installation() -> Iterator[Finding]:
    """Yield what `akconv check` prints, line by line: as each is known, so that a crash leaves what was found before.

    Where a package does not load, the lines that need it are left out.

    Example:
        >>> problems = [finding.problem for finding in check_installation() if finding.problem]
    """
    broken = False
    for finding in versions():
        broken = broken or finding.problem is not None
        yield finding
    yield from plug_ins()
    if not broken:
        from ultralytics_akconv.checks.devices import devices  # needs torch and the host

        yield from devices()
