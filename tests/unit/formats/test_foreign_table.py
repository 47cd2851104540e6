"""The table of docs/datasets.md is what the tools have read."""

from benchmarks.foreign_formats import BEGIN, END, PAGE, table


def test_the_page_has_the_table_of_the_round_trips() -> None:
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == table()
