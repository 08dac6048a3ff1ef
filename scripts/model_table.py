# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes the table of `docs/models.md`, sizes of the paper's models beside the published: scripts/model_table.py.

It replaces what lies between the two marks in that file; without AKConv a row is the host's stock model.
"""

from __future__ import annotations

import re
from pathlib import Path

import ultralytics

from ultralytics_akconv.info import Size, model_info
from ultralytics_akconv.markdown import markdown_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- table: scripts/model_table.py -->", "<!-- end of table -->"

# Published million parameters and GFLOPs at 640 px (arXiv 2311.11587); None where the paper prints none for COCO.
PUBLISHED: dict[str, tuple[float, float] | None] = {
    "yolov8n.yaml": (3.15, 8.7),
    "yolov8n-akconv3.yaml": None,
    "yolov8n-akconv4.yaml": None,
    "yolov8n-akconv.yaml": (2.94, 8.4),
    "yolov8n-akconv6.yaml": (3.01, 8.6),
    "yolov8n-akconv7.yaml": None,
    "yolov8n-akconv9.yaml": None,
    "yolov8n-akconv11.yaml": None,
    "yolov8n-akconv13.yaml": None,
    "yolov8n-c2f-akconv.yaml": None,
    "yolov5n.yaml": (1.87, 4.5),
    "yolov5n-akconv3.yaml": (1.51, 3.8),
    "yolov5n-akconv5.yaml": (1.65, 4.1),
    "yolov5n-akconv9.yaml": (1.94, 4.8),
    "yolov5n-akconv13.yaml": (2.23, 5.5),
    "yolov5s.yaml": (7.23, 16.4),
    "yolov5s-akconv4.yaml": (6.01, 14.1),
    "yolov5s-akconv6.yaml": (6.55, 15.3),
    "yolov5s-akconv7.yaml": (6.82, 15.9),
    "yolov7-tiny.yaml": None,
    "yolov7-tiny-akconv5.yaml": None,
    "yolov7-tiny-akconv9.yaml": None,
}


def table() -> str:
    """Return the table in Markdown."""
    titles = ("model", "parameters", "GFLOPs", "against its plain model")
    titles += ("published: M, GFLOPs", "published: against plain")
    rows = []
    published_plain = (0.0, 0.0)
    for name, published in PUBLISHED.items():
        info = model_info(name)
        if "akconv" not in name:
            published_plain = published or (0.0, 0.0)
        ours = _difference(info.size, info.plain) if info.akconvs else ""
        theirs = f"{published[0]:.2f}, {published[1]:.1f}" if published else ""
        more = f"{published[0] - published_plain[0]:+.2f} M, {published[1] - published_plain[1]:+.1f}" if theirs else ""
        more = more if info.akconvs else ""
        rows.append((f"`{name}`", f"{info.size.parameters:,}", f"{info.size.gflops:.2f}", ours, theirs, more))
    rules = ("---", *["--:"] * 5)
    about = f"Ultralytics {ultralytics.__version__}, 80 classes, GFLOPs at 640 px."
    return f"{about}\n\n{markdown_table(titles, rows, rules)}"


def _difference(size: Size, plain: Size) -> str:
    """Return by how much a model is larger than its plain model."""
    return f"{(size.parameters - plain.parameters) / 1e6:+.2f} M, {size.gflops - plain.gflops:+.2f}"


def main() -> None:
    """Put the table into the page."""
    page = PAGE.read_text("utf-8")
    between = re.compile(f"(?<={re.escape(BEGIN)}\n).*(?={re.escape(END)})", re.DOTALL)
    if not between.search(page):
        raise SystemExit(f"{PAGE} does not hold the marks {BEGIN} and {END}")
    PAGE.write_text(between.sub(lambda _: table() + "\n", page), "utf-8")


if __name__ == "__main__":
    main()
