"""The picture of a search: where its trials lie, and what is written beside them."""

from itertools import pairwise

from posecore.viz.budget_page import Marker, TradeOff


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
