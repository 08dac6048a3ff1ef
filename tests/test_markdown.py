# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables in Markdown and as text, letter by letter: documents that are kept are made of them."""

from ultralytics_akconv.markdown import markdown_table, text_table

ROWS = [("yolov8n", 37.3, None), ("a longer name", 1, "-")]


def test_every_row_is_a_line_and_cells_are_as_they_are_printed():
    assert markdown_table(("model", "AP", "N"), ROWS) == (
        "| model | AP | N |\n|---|---|---|\n| yolov8n | 37.3 | None |\n| a longer name | 1 | - |"
    )
    assert markdown_table(["model"], []) == "| model |\n|---|"


def test_columns_have_rules_of_their_own_or_all_the_same():
    assert markdown_table(("a", "b"), [(1, 2)], ("---", "--:")).splitlines()[1] == "|---|--:|"
    assert markdown_table(("a", "b"), [(1, 2)], " --- ").splitlines()[1] == "| --- | --- |"


def test_a_padded_table_has_its_bars_below_each_other():
    assert markdown_table(("model", "AP", "N"), ROWS, padded=True).splitlines() == [
        "| model         | AP   | N    |",
        "| ------------- | ---- | ---- |",
        "| yolov8n       | 37.3 | None |",
        "| a longer name | 1    | -    |",
    ]


def test_a_table_for_a_console_has_columns_and_no_blanks_at_an_end():
    rows = [("model.1", "5"), ("a", "13")]
    assert text_table(("layer", "N"), rows) == "layer    N\nmodel.1  5\na        13"
    assert text_table(("layer", "N"), rows, str.rjust) == "  layer   N\nmodel.1   5\n      a  13"
    assert text_table(("layer", "N"), []) == "layer  N"
