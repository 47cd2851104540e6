"""Whether training workers fit where a run file wants them, told of clusters as Ray describes them."""

import pytest

from posecore.cluster.training import check_resources
from posecore.errors import PreflightError
from posecore.workflows.machines import Placement, WorkersConfig


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head without CPUs, two nodes with two CPUs each, and one that is gone."""
    cpus = {"head": (0.0, True), "one": (2.0, True), "two": (2.0, True), "gone": (8.0, False)}
    nodes = [{"Resources": {"CPU": count}, "Alive": alive} for count, alive in cpus.values()]
    monkeypatch.setattr("posecore.cluster.training.ray.nodes", lambda: nodes)
    monkeypatch.setattr("posecore.cluster.training.ray.cluster_resources", lambda: {"CPU": 4.0})


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize(
    ("placement", "workers"), [("pack", 4), ("spread", 4), ("strict-spread", 2), ("strict-pack", 2)]
)
def test_workers_that_fit_are_let_pass(placement: Placement, workers: int) -> None:
    check_resources(WorkersConfig(num_workers=workers, placement=placement))


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize(
    ("placement", "sentence"),
    [
        (
            "strict-spread",
            "strict-spread: of 3 nodes 2 have room for 1 training worker, and 3 must; .* or take spread",
        ),
        ("strict-pack", "strict-pack: of 3 nodes 0 have room for 3 training workers, and 1 must; .* or take pack"),
    ],
)
def test_a_strict_placement_that_cannot_be_is_refused(placement: Placement, sentence: str) -> None:
    with pytest.raises(PreflightError, match=sentence):
        check_resources(WorkersConfig(num_workers=3, placement=placement))
