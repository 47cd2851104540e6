"""The picture of a search: where its trials lie, and what is written beside them."""

from itertools import pairwise
from pathlib import Path

import pytest

from posecore.viz.budget_page import BudgetPage, Marker, TradeOff, write_budget_page
from posecore.viz.curves import Curve
from posecore.viz.findings import Finding
from posecore.viz.report import ReportTable
from tests.support.browser import beyond, cut_off, opened


def marker(name: str, error: float, forgetting: float = 0.0, **more: object) -> Marker:
    values = {"family": name, "cost": 1.0} | more
    return Marker(name=name, error=error, forgetting=forgetting, **values)  # type: ignore[arg-type]


def test_better_lies_to_the_left_and_below() -> None:
    drawn = TradeOff([marker("full", 0.1, 0.2), marker("head", 0.2, 0.0)], parent_error=0.3)
    full, head = (next(each for each in drawn.markers if each.marker.name == name) for name in ("full", "head"))
    assert full.x < head.x < drawn.parent_x
    assert full.y < head.y == drawn.foot


def test_names_of_trials_at_one_place_are_lines_apart_and_on_the_picture() -> None:
    drawn = TradeOff([marker(f"trial-{number}", 0.1) for number in range(9)], parent_error=0.3)
    lines = sorted(each.label_y for each in drawn.markers)
    assert all(after - before >= 13 for before, after in pairwise(lines))
    assert drawn.top < lines[0]
    assert lines[-1] < drawn.height


def test_a_short_trial_that_went_far_wrong_lies_on_the_edge() -> None:
    near = [marker("full", 0.1), marker("lora", 0.12)]
    alone = TradeOff(near, parent_error=0.3)
    drawn = TradeOff([*near, marker("head", 2.6, last=False)], parent_error=0.3)
    assert drawn.x_ends == alone.x_ends
    assert next(each for each in drawn.markers if each.marker.name == "head").x == drawn.right


def test_a_markers_area_is_its_cost() -> None:
    cheap, dear = TradeOff([marker("a", 0.1, cost=0.0), marker("b", 0.1, cost=4.0)], parent_error=0.3).markers
    assert cheap.radius < dear.radius


@pytest.mark.browser
def test_a_phone_and_paper_show_all_of_it(tmp_path: Path) -> None:
    names = ("full", "full-replay", "frozen-backbone", "a-candidate-of-a-longer-name")
    columns = ("trial", "learns", "steps", "error", "change from the parent", "forgetting", "seconds", "became")
    rows = [
        [name, "24,290,000 of 24,290,000", "1,200", "11.20", "-30.0 [-34.0, -26.0]", "–", "1,040.2", "behind the best"]
        for name in names
    ]
    page = BudgetPage(
        title="infants: which strategy",
        findings=[Finding("full goes on.", "good")],
        rule="The rule.",
        markers=[marker(name, 0.1 + 0.1 * number) for number, name in enumerate(names)],
        parent_error=0.35,
        trials=ReportTable(columns, rows),
        rungs=ReportTable(("rung", "steps"), [["1", "300"]]),
        curve=Curve(title="error", x_label="steps", y_label="%", series={"full": ([0.0, 9.0], [2.0, 1.0])}),
        facts={"budget": "600steps"},
    )
    path = Path(str(write_budget_page(tmp_path / "index.html", page)))
    with opened(path, tmp_path / "profile") as driver:
        for width, media in ((1280, "screen"), (390, "screen"), (794, "print")):
            assert cut_off(driver, width, media) == []
        assert beyond(driver, 390) <= 0
        (picture,) = driver.find_elements("css selector", ".trade svg")
        for name in driver.find_elements("css selector", ".trade .name"):
            assert picture.rect["x"] <= name.rect["x"]
            assert name.rect["x"] + name.rect["width"] <= picture.rect["x"] + picture.rect["width"]
        cells = driver.find_elements("css selector", ".trials tbody tr:first-child td")
        assert cells[-1].rect["y"] == cells[0].rect["y"] < cells[1].rect["y"], "what became of it stands by its name"
        assert not cells[5].is_displayed(), "of which nothing is known"
        assert driver.get_log("browser") == []
