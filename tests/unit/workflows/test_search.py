"""The run files that a search makes of its own, and what it knows a former search by."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from posecore.config import load_config, parse_config
from posecore.errors import ConfigError
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.methods.strategies import FullConfig
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.budget.candidates import as_overrides, as_run_file
from posecore.workflows.budget.search import data_of
from posecore.workflows.budget.settings import Candidate
from posecore.workflows.budget.trial import seconds_of_step

CANDIDATE = Candidate(name="full", strategy=FullConfig())
VALUES: dict[str, Any] = {
    "name": "searched",
    "run_folder": "run",
    "data_folder": "data",
    "tracking": {"uri": "sqlite:///mlflow.db", "experiment": "search"},
    "parent": "parent",
    "target": "syrip",
    "method": {"strategy": "full"},
    "datasets": [{"name": "syrip", "root": "syrip", "train": "train", "evaluate": "val"}],
    "training": {"steps": 2000, "evaluate_every": 500, "global_batch": 4},
    "label_check": {},
    "search": {"budget": "2000steps"},
}


def job(**changes: Any) -> AdaptationJob:
    return parse_config(VALUES | changes, AdaptationJob, origin="test")


@pytest.mark.parametrize(("steps", "every"), [(10_000, 500), (2000, 500), (1999, 499), (1600, 400), (4, 1)])
def test_a_trial_looks_four_times_at_the_losses_of_its_labels_however_short_it_is(steps: int, every: int) -> None:
    assert as_run_file(job(), CANDIDATE, steps).training.evaluate_every == every
    unlooked = as_run_file(job(label_check=None), CANDIDATE, steps)
    assert unlooked.training.evaluate_every == 500, "nothing is to be seen between evaluations"


def test_what_is_said_of_a_choice_makes_its_run_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    chosen = as_run_file(job(), CANDIDATE, 1600)
    alike = load_config(tmp_path / "run.yaml", AdaptationJob, as_overrides(chosen))
    assert alike.taking_part().fingerprint() == chosen.taking_part().fingerprint()


def test_a_search_that_may_end_in_runs_too_short_for_their_label_check_is_refused_at_once() -> None:
    short = {"budget": "2000steps", "least_steps": 3}
    with pytest.raises(ConfigError, match=r"search\.least_steps: .* at least, and a run of 3 steps has no room"):
        job(search=short)
    assert job(search=short, label_check=None).search is not None


def test_corrections_of_any_set_make_another_search_and_no_split_hides_another() -> None:
    use = DatasetUse(name="coco", split="train", digest="a" * 64, role="training", license="CC-BY-4.0")
    others = [
        use.model_copy(update=change)
        for change in ({"corrections": "c" * 64}, {"digest": "b" * 64}, {"role": "evaluation"})
    ]
    assert all(data_of([use]) != data_of([other]) for other in others)
    assert data_of([use, use]) != data_of([use, others[1]]) != data_of([others[1], others[1]])
    assert data_of([use]) == data_of([use.model_copy(update={"location": "elsewhere"})])


def test_a_step_of_a_trial_takes_its_share_of_what_is_done_now_and_then() -> None:
    ends = [10.0, 12.0, 14.0, 22.0]
    assert seconds_of_step(ends, 3) == 2.0 + 6.0 / 3
    assert seconds_of_step([*ends[:3], 16.0], 3) == 2.0
    assert seconds_of_step([*ends[:3], 15.9], 3) == 2.0, "it takes no time back"
    assert seconds_of_step(ends, 0) == 2.0
