# SPDX-License-Identifier: AGPL-3.0-or-later
"""VisDrone as people have it: lines and images that cannot be read."""

import pytest
from layouts import converted, refused, write_visdrone


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "line 2 must have 8 fields between commas, got ''"),
        ("1,2,3", "line 2 must have 8 fields between commas, got '1,2,3'"),
        ("1,2,x,4,1,1,0,0", "line 2: invalid literal for int() with base 10: 'x'"),
        ("1,2,3,4,1,0,0,0", "line 2 has the category 0, not 1 to 10"),
        ("1,2,3,4,1,11,0,0", "line 2 has the category 11, not 1 to 10"),
    ],
)
def test_a_line_of_visdrone_that_cannot_be_read_is_named(line, message, tmp_path):
    source = write_visdrone(tmp_path / "source")
    file = sorted(source.glob("*-val/annotations/*.txt"))[0]
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n", "utf-8")
    refused(source, f"{file} cannot be read: {message}")


@pytest.mark.parametrize("end", ["", "\n\n", " \n"])
def test_blank_lines_at_the_end_are_nothing(end, tmp_path):
    source = write_visdrone(tmp_path / "source")
    file = sorted(source.glob("*-val/annotations/*.txt"))[0]
    file.write_text(file.read_text("utf-8").rstrip() + end, "utf-8")
    assert converted(source)[1][file.stem]


def test_an_image_of_visdrone_that_is_absent_or_none_is_named(tmp_path):
    source = write_visdrone(tmp_path / "source")
    image = sorted(source.glob("*-val/images/*.jpg"))[0]
    image.write_bytes(b"no image")
    refused(source, f"{image} cannot be read as an image")
    image.unlink()
    refused(source, f"'{image.name}' is not in {image.parent}, but ")
