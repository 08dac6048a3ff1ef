# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cuts a detection dataset into square tiles: small objects count in them, and a training takes a minute on a CPU.

Images are scaled by `--scale` first. Tiles lie side by side from the upper left; the last of a row or column is moved
back to end with the image, over the one before. A box that the edge of a tile cuts is kept in every tile that holds at
least `--keep` of its area, clipped to the tile. A tile stays in the split of its image. The same call on the same files
writes the same files.

    python scripts/cut_tiles.py bccd/data.yaml -o bccd-tiles --side 160 --scale 0.5
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, img2label_paths

from ultralytics_akconv.cli.arguments import exit_status


def tiles(image: np.ndarray, boxes: np.ndarray, side: int, keep: float) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the tiles of an image: a name by row and column, the pixels, and the boxes.

    Args:
        image: Pixels (H, W, 3).
        boxes: Rows of class, x, y, w, h, of 0 to 1 of the image (n, 5); those yielded are of the tile.
        side: Side of a tile in pixels.
        keep: Share of a box's area that a tile must hold to keep it.

    Raises:
        ValueError: If the image is smaller than a tile.
    """
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise ValueError(f"an image of {width} x {height} pixels holds no tile of {side}")
    centre, half = boxes[:, 1:3] * (width, height), boxes[:, 3:5] * (width, height) / 2
    first, last = centre - half, centre + half
    area = np.prod(last - first, axis=1)
    for row, top in enumerate(_starts(height, side)):
        for column, left in enumerate(_starts(width, side)):
            upper, lower = (np.clip(corner - (left, top), 0, side) for corner in (first, last))
            held = np.prod(lower - upper, axis=1)
            kept = (held > 0) & (held >= keep * area)
            cut = np.hstack([boxes[:, :1], (upper + lower) / 2 / side, (lower - upper) / side])[kept]
            yield f"r{row}c{column}", image[top : top + side, left : left + side], cut


def _starts(length: int, side: int) -> list[int]:
    """Return where tiles of a side begin along a length."""
    return [min(start, length - side) for start in range(0, length, side)]


def cut(
    data: str | Path,
    output: Path,
    side: int = 160,
    scale: float = 1.0,
    keep: float = 0.4,
    every: dict[str, int] | None = None,
) -> Path:
    """Write the tiles of all splits of a dataset and return their data YAML.

    Args:
        data: A data YAML of the host's form, with boxes for labels.
        output: A new folder.
        side: Side of a tile in pixels.
        scale: What the sides of the images are multiplied by before the cut.
        keep: Share of a box's area that a tile must hold to keep it, 0 to 1.
        every: By split, n to take each n-th tile alone, in the order of file names; all tiles without it.

    Raises:
        ValueError: If `output` is there, an argument is out of range, or an image or label cannot be read.
    """
    if output.exists():
        raise ValueError(f"{output} is in the way: remove it, or give another folder")
    every = every or {}
    if side < 1 or scale <= 0 or not 0 <= keep <= 1 or any(n < 1 for n in every.values()):
        got = f"{side}, {every}, {scale}, {keep}"
        raise ValueError(f"side and every must be 1 or more, scale above 0, keep 0 to 1; got {got}")
    source = check_det_dataset(str(data))
    splits = [split for split in ("train", "val", "test") if source.get(split)]
    unknown = sorted(set(every) - set(splits))
    if unknown:
        raise ValueError(f"there is no split {', '.join(unknown)} in {data}: {', '.join(splits)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as folder:  # gone if it fails
        staging = Path(folder) / "tiles"
        for split in splits:
            folders = source[split] if isinstance(source[split], list) else [source[split]]
            _cut_split(folders, staging, split, (side, scale, keep), every.get(split, 1))
        content = {**{split: f"images/{split}" for split in splits}, "names": source["names"]}
        text = yaml.safe_dump(content, sort_keys=False)  # no path: the host takes the folder of the file
        (staging / "data.yaml").write_text(text, "utf-8")
        staging.rename(output)  # whole, or not at all
    return output / "data.yaml"


def _cut_split(folders: list[str], staging: Path, split: str, how: tuple[int, float, float], every: int) -> None:
    """Write each `every`-th tile of the images of a split."""
    side, scale, keep = how
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*"))]
    files = [file for file in files if file.suffix[1:].lower() in IMG_FORMATS]
    pictures, labels = staging / "images" / split, staging / "labels" / split
    pictures.mkdir(parents=True)
    labels.mkdir(parents=True)
    number = 0
    for file, label in zip(files, img2label_paths(map(str, files))):
        image = cv2.imread(str(file))
        if image is None:
            raise ValueError(f"'{file}' cannot be read as an image")
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale != 1 else image
        for name, pixels, boxes in tiles(image, _boxes(Path(label)), side, keep):
            if number % every == 0:
                cv2.imwrite(str(pictures / f"{file.stem}-{name}.png"), pixels)
                lines = [f"{int(cls)} " + " ".join(f"{value:.6f}" for value in box) for cls, *box in boxes]
                (labels / f"{file.stem}-{name}.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
            number += 1


def _boxes(label: Path) -> np.ndarray:
    """Return the rows of a label file (n, 5); none without a file."""
    rows = [line.split() for line in label.read_text("utf-8").splitlines() if line.strip()] if label.is_file() else []
    if any(len(row) != 5 for row in rows):
        raise ValueError(f"'{label}' holds other labels than boxes: class, x, y, w, h")
    return np.array(rows, dtype=float).reshape(-1, 5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut and say where the result lies; return 0, or 1 after an error of the user's."""
    parser = argparse.ArgumentParser(
        "cut_tiles.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="dataset YAML")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--side", type=int, default=160, help="side of a tile in pixels (default 160)")
    parser.add_argument("--scale", type=float, default=1.0, help="scale the images by this first (default 1)")
    parser.add_argument("--keep", type=float, default=0.4, help="share of a box that a tile must hold (default 0.4)")
    parser.add_argument(
        "--every",
        nargs="*",
        default=[],
        type=_split_number,
        metavar="SPLIT=N",
        help="take each N-th tile of a split alone: train=5 val=12 (default all)",
    )
    options = parser.parse_args(arguments)

    def run() -> None:
        file = cut(options.data, options.output, options.side, options.scale, options.keep, dict(options.every))
        print(f"wrote {file}")

    return exit_status(parser.prog, run)


def _split_number(text: str) -> tuple[str, int]:
    """Read train=5."""
    split, _, number = text.partition("=")
    if not number.isdigit():
        raise argparse.ArgumentTypeError(f"invalid {text!r}: write SPLIT=N as in train=5")
    return split, int(number)


if __name__ == "__main__":
    sys.exit(main())
