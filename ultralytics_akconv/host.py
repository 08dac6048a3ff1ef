# SPDX-License-Identifier: AGPL-3.0-or-later
"""The host (`ultralytics`): which releases the plug-in works with, and what its models tell of themselves.

Standard library only.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

MINIMUM = (8, 3, 9)  # the first release that keeps a layer's parameter count on the instance, not on its class


def check_host() -> None:
    """Raise an ImportError that says what to do if the host is missing or too old."""
    minimum = ".".join(map(str, MINIMUM))
    try:
        import ultralytics
    except ModuleNotFoundError as error:
        if error.name != "ultralytics":
            raise
        raise ImportError(f"ultralytics-akconv needs ultralytics>={minimum}: pip install -U ultralytics") from error
    # A host that is being imported right now may not have its __version__ yet.
    version = getattr(ultralytics, "__version__", None) or metadata.version("ultralytics")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < MINIMUM:
        raise ImportError(
            f"ultralytics-akconv needs ultralytics>={minimum}, found {version}: pip install -U ultralytics"
        )


def input_channels(network: Any) -> int:
    """Return how many channels a network's images have, or those of a model dictionary.

    The host notes it under names that differ by release.
    """
    model = network if isinstance(network, dict) else getattr(network, "yaml", None) or {}
    return model.get("channels", model.get("ch", 3))


def training_side(trained: Any) -> int:
    """Return the image side, in pixels, of a trainer, or at which a network was trained; 640 if that is unknown.

    Of `imgsz=[height, width]`, at which the host also trains, it is the larger.
    """
    args = getattr(trained, "args", None) or {}
    size = (args if isinstance(args, dict) else vars(args)).get("imgsz") or 640
    return int(max(size) if isinstance(size, (list, tuple)) else size)


def built_like(network: Any, model: dict[str, Any]) -> Any:
    """Return a network of a model dictionary, of the class and for the images of another network."""
    return type(network)(model, ch=input_channels(network), verbose=False)
