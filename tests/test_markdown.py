# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables in Markdown, letter by letter: documents that are kept are made of them."""

from ultralytics_akconv.markdown import markdown_table

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
