"""A search for a strategy within a budget: what is tried, what goes on, what is chosen, and what is recorded of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml

from pipelines.adapt import FLAGS, build_parser, run
from posecore.config import load_config, parse_config
from posecore.errors import ConfigError, DatasetError, PreflightError
from posecore.lineage.jobs.steps import EVERYTHING
from posecore.lineage.store.tracking import TrackingConfig, connect
from posecore.lineage.versions.tags import get_version
from posecore.methods.strategies import StrategyConfig
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.associative import AssociativeHeadConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import save_model
from posecore.shards.corrections import read_corrections
from posecore.shards.store import open_store
from posecore.skeletons.library import load_skeleton
from posecore.synth.writers import write_dataset
from posecore.training.checkpoint import Checkpoint, step_of
from posecore.training.schedule import CosineSchedule
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.budget.candidates import KNOWN, as_run_file
from posecore.workflows.budget.competition import rungs_in_steps
from posecore.workflows.budget.contest import Contest, Found, contest, find_strategy
from posecore.workflows.budget.search import refuse_several_processes
from posecore.workflows.budget.trial import PARENT, Pace, Trials
from posecore.workflows.command_line import read_job
from posecore.workflows.machines import Machines
from posecore.workflows.without_ray import ThisProcess

SIZE = (64, 48)
SEARCH: dict[str, Any] = {
    "budget": "120steps",
    "tried_share": 0.5,
    "least_steps": 5,
    "eta": 2,
    "labels": 10,
    "order": "listed",
    "candidates": [
        {"name": "head", "strategy": "frozen-backbone"},
        {"name": "lora", "strategy": {"kind": "lora", "rank": 2}, "rate": 3.0, "replay": 0.0},
        {"name": "full", "strategy": "full", "replay": 0.0},
        {"name": "full-replay", "strategy": "full", "replay": 0.25},
    ],
}
WILD = {"name": "wild", "strategy": "full", "rate": 1e25, "replay": 0.0}
FEW = SEARCH | {"candidates": SEARCH["candidates"][:2]}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory, store_folder: Path) -> dict[str, Any]:
    """A run file beside its data: a parent that knows people, and infants."""
    folder = tmp_path_factory.mktemp("budget")
    for seed, name in enumerate(("coco", "syrip")):
        write_dataset(name, folder / name, num_train=12, num_val=4, image_size=(96, 96), seed=seed)  # type: ignore[arg-type]
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=VitConfig(embed_dim=16, depth=2, num_heads=2), head=ClassicHeadConfig(channels=8), input_size=SIZE
    )
    parent = build_model(config, {"coco": load_skeleton("coco17")}, licenses={"coco": "CC-BY-4.0"})
    save_model(parent, folder / "parent")
    return {
        "name": "searched",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder),
        "tracking": TrackingConfig(uri=f"sqlite:///{store_folder}/mlflow.db", experiment="budget").model_dump(),
        "parent": str(folder / "parent"),
        "target": "syrip",
        "method": {"strategy": "full"},
        "datasets": [
            {"name": "syrip", "root": "syrip", "train": "train", "evaluate": "val"},
            {"name": "coco", "root": "coco", "train": "train", "evaluate": "val"},
        ],
        "training": {
            "steps": 20,
            "evaluate_every": 5,
            "global_batch": 4,
            "optimizer": {"lr": 3e-3},
            "schedule": {"kind": "cosine", "warmup_steps": 1},
            "progress": False,
        },
        "loading": {"num_threads": 1},
        "inference": {"flip_test": False, "num_threads": 1},
        "label_check": {},
        "search": SEARCH,
    }


def job(values: dict[str, Any], **changes: Any) -> AdaptationJob:
    return parse_config(values | changes, AdaptationJob, origin="test")


def planned_of(config: AdaptationJob) -> Contest:
    return contest(config, connect(config.tracking, config.folder))


class Counted(ThisProcess):
    """This process, which may be killed after some pieces."""

    def __init__(self, most: int = 10**6) -> None:
        super().__init__()
        self.done: list[Any] = []
        self.trials: Trials | None = None
        self._most = most

    def work(self, build: Any, works: Any, settings: Any) -> Any:
        tool = build()
        if isinstance(tool, Trials):
            if len(self.done) >= self._most:
                raise KeyboardInterrupt
            self.done += works
            self.trials = tool
        return super().work(build, works, settings)


@pytest.fixture(scope="module")
def found(values: dict[str, Any]) -> tuple[Found, Counted]:
    """A search of 120 steps, killed after three pieces and submitted again."""
    with pytest.raises(KeyboardInterrupt):
        find_strategy(job(values), EVERYTHING, Counted(most=3))
    machines = Counted()
    return find_strategy(job(values), EVERYTHING, machines), machines


def test_trials_climb_and_the_better_half_goes_on(found: tuple[Found, Counted], values: dict[str, Any]) -> None:
    _, machines = found
    first, last = machines.done[1:5], machines.done[5:]
    assert machines.done[0] == (PARENT, 0)
    assert {name for name, _ in first} == {"head", "lora", "full", "full-replay"}
    assert {step for _, step in first} == {15}
    assert [step for _, step in last] == [30, 30]


def test_what_is_chosen_is_what_adapt_does_by_that_name(
    found: tuple[Found, Counted], values: dict[str, Any], tmp_path: Path
) -> None:
    chosen = found[0].config
    assert chosen.search is None
    assert chosen.training.steps == 120 - 2 * 15 - 30, "all that other trials have not taken"
    named = next(each for each in SEARCH["candidates"] if each["name"] == tags_of(found)["posecore.chosen"])
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({k: v for k, v in values.items() if k != "search"}))
    said = [
        f"method.strategy={named['strategy']}",
        f"replay={named.get('replay', 0.0)}",
        f"training.optimizer.lr={3e-3 * named.get('rate', 1.0)}",
        f"training.steps={chosen.training.steps}",
        f"datasets.0.corrections={chosen.datasets[0].corrections}",
    ]
    alike = load_config(tmp_path / "run.yaml", AdaptationJob, said)
    assert alike.taking_part().fingerprint() == chosen.taking_part().fingerprint()


def test_only_so_many_labels_are_learned_from_and_chosen_by(
    found: tuple[Found, Counted], values: dict[str, Any]
) -> None:
    chosen, trials = found[0].config, found[1].trials
    assert trials is not None
    assert chosen.datasets[0].corrections is not None
    place = trials.judged_on.location
    read = [read_corrections(chosen.datasets[0].corrections), trials.judged_on.held_out]
    read.append(trials.workers["full"].corrections["syrip"])
    left = [open_store(place, corrections=each).instances["num_labelled"].to_numpy() > 0 for each in read]
    assert left[0].sum() == 10
    assert (left[1] ^ left[2] == left[0]).all(), "held out or learned from"


def tags_of(found: tuple[Found, Counted]) -> dict[str, str]:
    run = found[0].run
    return dict(run.tracking.client.get_run(run.run_id).data.tags)


def test_every_trial_is_a_run_with_parameters_curve_and_cost(found: tuple[Found, Counted]) -> None:
    run = found[0].run
    client, experiment = run.tracking.client, run.tracking.experiment_id
    trials = client.search_runs([experiment], "tags.`posecore.kind` = 'trial'")
    steps = client.search_runs([experiment], "tags.`posecore.step` = 'search'")
    assert len(steps) == 1, "the killed step's run was gone on with"
    assert {each.data.tags["mlflow.parentRunId"] for each in trials} == {steps[0].info.run_id}
    by_name = {each.data.tags["posecore.trial"]: each for each in trials}
    assert len(trials) == len(by_name) == 4
    assert by_name["lora"].data.params["strategy.rank"] == "2"
    assert float(by_name["lora"].data.params["lr"]) == pytest.approx(9e-3)
    assert by_name["full-replay"].data.params["replay_share"] == "0.25"
    best = by_name[tags_of(found)["posecore.chosen"]]
    errors = client.get_metric_history(best.info.run_id, "validation_error")
    assert [point.step for point in errors] == [15, 30]
    curve = client.get_metric_history(best.info.run_id, "loss")
    assert [point.step for point in curve] == sorted({point.step for point in curve})
    assert max(point.step for point in curve) == 30
    assert {"train_s", "judge_s", "trained_parameters", "forgetting", "coco/error_change"} <= best.data.metrics.keys()
    assert {each.info.status for each in trials} == {"FINISHED"}


def test_the_page_begins_with_the_answer_and_shows_the_trade_off(
    found: tuple[Found, Counted], values: dict[str, Any]
) -> None:
    (path,) = Path(values["run_folder"]).glob("search/*/index.html")
    page = path.read_text()
    name = tags_of(found)["posecore.chosen"]
    assert page.index(f"{name} goes on to 60 steps, ") < page.index("<h2>")
    assert page.count('<path class="') == 4
    assert page.count('class="chosen"') == 1
    assert "ended after 15 steps" in page
    assert "60 in trials that ended and 60 of what goes on" in page
    left = sorted(each.name for each in path.parent.iterdir())
    assert left == sorted(["index.html", "parent", name]), "nothing that another trial learned is left"
    (kept,) = (path.parent / name / "checkpoints").iterdir()
    assert step_of(kept.name) == 30


def test_the_job_does_not_search_again_and_carries_the_chosen_trial_to_its_end(
    found: tuple[Found, Counted], values: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    machines, chosen = Counted(), found[0].config
    uri = run(job(values), EVERYTHING, machines)
    looked = [line.split()[1] for line in capfd.readouterr().out.splitlines() if line.startswith("proportions:syrip")]
    assert looked == ["reused", "reused"], "trials and child know the same labels, and their proportions"
    assert machines.done == [], "the search is reused"
    tracking = found[0].run.tracking
    version = get_version(tracking, "searched", int(uri.rpartition("/")[2]))
    assert version.tags["strategy"] == chosen.method.strategy.kind
    (searched,) = tracking.client.search_runs([tracking.experiment_id], "tags.`posecore.step` = 'search'")
    assert version.tags["search_run_id"] == searched.info.run_id
    (report,) = Path(values["run_folder"]).glob("training/*/*/adaptation.html")
    (begun,) = report.parent.glob("checkpoints/step_00000030_*")
    (trial,) = Path(values["run_folder"]).glob("search/*/*/checkpoints/*")
    assert (begun / "manifest.json").read_bytes() == (trial / "manifest.json").read_bytes()
    (whole,) = report.parent.glob("checkpoints/step_00000060_*")
    assert Checkpoint(whole).counts.optimizer_steps == 60, "moments went on as well"
    losses = [path.name for path in report.parent.glob("label_losses/syrip/*")]
    steps = range(5, 61, 5)
    assert sorted(losses) == [f"step_{step:09d}.npz" for step in steps], "what a trial had learned looks learned"
    assert f"the search of run {searched.info.run_id}, whose trials are on " in report.read_text()
    searches = tracking.client.search_runs([tracking.experiment_id], f"tags.`posecore.registered` = '{uri}'")
    assert "posecore.chosen" in {tag for each in searches for tag in each.data.tags}
    assert len(searches) == 2, "the search, and the adaptation"


def test_a_trial_that_rested_at_a_rung_is_the_trial_that_did_not(found: tuple[Found, Counted], tmp_path: Path) -> None:
    trials = found[1].trials
    assert trials is not None
    scores = {}
    for folder, steps in (("rested", (3, 6)), ("whole", (6,))):
        there = replace(trials, folder=str(tmp_path / folder))
        scores[folder] = [there(("full-replay", step)) for step in steps][-1]
    assert scores["rested"].validation == scores["whole"].validation
    assert scores["rested"].kept == scores["whole"].kept


def test_a_budget_in_time_becomes_steps_and_a_search_that_would_overrun_stops_and_says_so(
    values: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """First steps are measured, and then said to have been slow, as they are on a machine that others use."""
    candidates = [*SEARCH["candidates"][:2], WILD]
    config = job(values, search={"budget": "10min", "candidates": candidates}, run_folder=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        find_strategy(config, EVERYTHING, Counted(most=1))
    said = capfd.readouterr().out
    assert "the rungs follow from first steps, which are measured" in said
    assert f"search    {'wild':<20} failed, and the others go on: training diverged in step " in said
    (path,) = tmp_path.glob("search/*/halving.json")
    assert [each.name for each in (path.parent / "head").iterdir()] == ["pace.json"], "what was recorded was measured"
    planned = json.loads(path.read_bytes())
    assert planned["counts"] == [2]
    assert planned["rungs"][0] >= 200
    assert planned["lengths"].keys() == {"head", "lora"}
    assert min(planned["lengths"].values()) > planned["rungs"][0]
    path.write_text('{"lengths": {"head": 40, "lora": 40}, "rungs": [10], "counts": [2]}')
    for name, step_s in (("head", 1.0), ("lora", 1000.0)):
        file = path.parent / name / "pace.json"
        pace = Pace.model_validate_json(file.read_bytes())
        assert 0 < pace.step_s < pace.spent_s
        file.write_text(pace.model_copy(update={"step_s": step_s}).model_dump_json())
    machines = Counted()
    find_strategy(config, EVERYTHING, machines)
    assert machines.done == [(PARENT, 0), ("head", 10)]
    told = "the budget of 10min would have been overrun at 10 steps; 1 of 2 trials got there"
    assert f"search    stopped: {told}" in capfd.readouterr().out
    page = (path.parent / "index.html").read_text()
    assert told in page
    assert "head goes on to 40 steps" in page
    assert "A budget in time gives other steps on another machine or day" in page


def test_the_schedule_of_a_trial_is_that_of_its_child_although_time_ran_away(
    values: dict[str, Any], tmp_path: Path
) -> None:
    """Its first steps are said to have been fast, so that what it took by the rung is more than there was."""
    search = {"budget": "0.1s", "candidates": SEARCH["candidates"][:1]}
    config = job(values, search=search, run_folder=str(tmp_path))
    with pytest.raises(ConfigError, match=r"0\.1s has no room for one strategy"):
        find_strategy(config, EVERYTHING, ThisProcess())
    (path,) = tmp_path.glob("search/*/head/pace.json")
    path.write_text(Pace(name="head", step_s=1e-3, start_s=0.0, spent_s=0.0).model_dump_json())
    (path.parents[1] / "halving.json").write_text('{"lengths": {"head": 40}, "rungs": [10], "counts": [1]}')
    parent = path.parents[1] / PARENT / "score_0.json"
    parent.write_text(json.dumps(json.loads(parent.read_bytes()) | {"judge_s": 0.0}))
    machines = Counted()
    child = find_strategy(config, EVERYTHING, machines).config.training
    assert machines.trials is not None
    trial = machines.trials.workers["head"].training
    assert child.steps == trial.steps == 40
    assert [child.schedule.factor(step, child.steps) for step in range(40)] == [
        trial.schedule.factor(step, trial.steps) for step in range(40)
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"search": SEARCH | {"budget": "4steps"}},
            ConfigError,
            "4steps has no room for one strategy: head makes 4 steps in it, and search.least_steps are 5",
        ),
        (
            {"search": SEARCH | {"budget": "0.1s", "candidates": SEARCH["candidates"][:1]}},
            ConfigError,
            "0.1s has no room for one strategy: head makes 0 steps",
        ),
        ({"search": FEW | {"memory": "1MiB"}}, ConfigError, "no strategy fits 0.000977 GiB; the least, head, takes"),
        (
            {"search": FEW | {"labels": 4, "validation_share": 0.9}},
            DatasetError,
            "has labelled bodies of 4 subjects; at least 2 are held out",
        ),
        (
            {"search": SEARCH | {"candidates": [{"name": "a", "strategy": "frozen-backbone"}]}, "l2_sp": 1.0},
            ConfigError,
            "search.candidates.a: l2_sp: with frozen-backbone no inherited weight learns",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_in_a_sentence(
    changes: dict[str, Any], error: type[Exception], message: str, values: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        find_strategy(job(values, **changes), EVERYTHING, ThisProcess())


def test_a_best_step_by_a_set_that_is_not_judged_is_refused_before_a_search(values: dict[str, Any]) -> None:
    training = values["training"] | {"best": {"metric": "nobody/AP"}}
    with pytest.raises(
        ConfigError, match="nobody/AP is no metric of a set that is judged; begin it with syrip/ or coco/"
    ):
        planned_of(job(values, training=training))


def test_a_parent_that_finds_bodies_itself_is_not_searched_for(values: dict[str, Any], tmp_path: Path) -> None:
    head = AssociativeHeadConfig(channels=8, fine_channels=8, fine_blocks=0)
    config = ModelConfig(backbone=VitConfig(embed_dim=16, depth=1, num_heads=2), head=head, input_size=(64, 64))
    parent = save_model(build_model(config, {"coco": load_skeleton("coco17")}), tmp_path / "parent")
    with pytest.raises(ConfigError, match="the parent finds bodies itself, or misses them"):
        planned_of(job(values, parent=str(parent)))


def test_the_usual_candidates_and_their_plan(values: dict[str, Any]) -> None:
    known = planned_of(job(values, search={"budget": "12000steps", "memory": "4GiB"}))
    names = [fit.candidate.name for fit in known.fits]
    assert names == [
        "full", "lora-16", "full-replay", "last-1", "lora-4", "head", "lora-16-replay", "last-1-replay", "lora-4-replay"
    ]  # fmt: skip
    trained = {fit.candidate.name: fit.trained for fit in known.fits}
    assert trained["head"] < trained["lora-4"] < trained["lora-16"] < trained["full"]
    assert [fit.config.replay_share for fit in known.fits][:3] == [0.0, 0.0, 0.25]
    bound = planned_of(job(values, l2_sp=0.1, search={"budget": "12000steps"}))
    assert [fit.candidate.name for fit in bound.fits] == ["full", "last-1", "full-replay", "last-1-replay"]
    slow = known.config.model_copy(
        update={"training": known.config.training.model_copy(update={"schedule": CosineSchedule(warmup_steps=500)})}
    )
    schedules = [as_run_file(slow, known.fits[0].candidate, steps).training.schedule for steps in (100, 5000, 8000)]
    assert [schedule.warmup_steps for schedule in schedules] == [10, 500, 500]  # type: ignore[union-attr]
    rungs = rungs_in_steps(known.config.search, known.fits)  # type: ignore[arg-type]
    assert rungs is not None
    assert rungs.counts == (9, 3)


def test_candidates_are_in_the_order_that_is_known_or_else_as_they_are_listed(values: dict[str, Any]) -> None:
    listed = SEARCH["candidates"]
    found = {
        order: [fit.candidate.name for fit in planned_of(job(values, search=SEARCH | {"order": order})).fits]
        for order in ("known", "listed")
    }
    assert found == {
        "known": ["full", "full-replay", "lora", "head"],
        "listed": [each["name"] for each in listed],
    }
    assert {*KNOWN} == {kind.model_fields["kind"].default for kind in get_args(get_args(StrategyConfig)[0])}


def test_bounds_alone_search_within_the_steps_of_the_run(values: dict[str, Any]) -> None:
    found = job(values, search={"labels": 10}).search
    assert found is not None
    assert found.steps == values["training"]["steps"]


def test_a_search_takes_one_process_or_a_cluster(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    machines: Machines = ThisProcess()
    several = job(values, search=SEARCH | {"at_once": 2}).search
    assert several is not None
    with pytest.raises(PreflightError, match="this process does one trial after the other"):
        refuse_several_processes(several, machines)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PreflightError, match="a trial is trained by one process, and torchrun started 2"):
        refuse_several_processes(several, machines)


def test_a_budget_without_room_for_trials_takes_the_first_candidate_as_if_it_had_been_named(
    values: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    search = {"budget": "20steps", "least_steps": 5, "candidates": SEARCH["candidates"][2:]}
    config = job(values, search=search, run_folder=str(tmp_path))
    machines = Counted()
    result = find_strategy(config, EVERYTHING, machines)
    assert machines.done == [(PARENT, 0)]
    assert result.origin.begun is None
    named = job(values, replay=0.0, training=values["training"] | {"steps": 20}, run_folder=str(tmp_path), search=None)
    assert result.config.taking_part().fingerprint() == named.taking_part().fingerprint()
    said = " ".join(capfd.readouterr().out.split())
    assert "the budget has no room for trials: full makes 20 steps" in said
    assert "full is taken untried and makes 20 steps, as the first of the candidates: 20steps have no room" in said
    (page,) = tmp_path.glob("search/*/index.html")
    assert "not tried: no room in the budget" in page.read_text()
    assert "<svg" not in page.read_text()


def test_a_strategy_that_diverges_is_told_and_the_others_go_on(
    values: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    search = FEW | {"budget": "60steps", "tried_share": 0.4, "candidates": [WILD, SEARCH["candidates"][0]]}
    result = find_strategy(job(values, search=search, run_folder=str(tmp_path)), EVERYTHING, ThisProcess())
    assert result.run.tracking.client.get_run(result.run.run_id).data.tags["posecore.chosen"] == "head"
    told = "failed, and the others go on: training diverged in step "
    assert f"search    {'wild':<20} {told}" in capfd.readouterr().out
    (page,) = tmp_path.glob("search/*/index.html")
    assert "wild failed: training diverged in step " in page.read_text()
    alike = search | {"candidates": [WILD, WILD | {"name": "wilder"}]}
    with pytest.raises(ConfigError, match=r"wild: training diverged in step .*wilder: training diverged"):
        find_strategy(job(values, search=alike, run_folder=str(tmp_path)), EVERYTHING, ThisProcess())


def test_flags_say_the_budget_and_a_dry_run_the_plan(
    values: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    few = SEARCH["candidates"][:2]
    folder = tmp_path / "run"
    path.write_text(yaml.safe_dump(values | {"search": {"budget": "1h", "candidates": few}, "run_folder": str(folder)}))
    flags = ["--budget", "2000steps", "--memory", "4GiB", "--labels", "10", "--dry-run"]
    read_job(build_parser(), AdaptationJob, run, ["--config", str(path), *flags], FLAGS)(ThisProcess())
    said = capfd.readouterr()
    assert yaml.safe_load(said.out)["search"] == {
        "budget": "2000steps",
        "memory": "4GiB",
        "labels": 10,
        "candidates": few,
    }
    assert "2 trials to 400 steps; the best of them goes on to 1,600 steps; 400 in the others" in " ".join(
        said.err.split()
    )
    assert not folder.exists()
    with pytest.raises(ConfigError, match="--strategy says what --budget is to find out; give one of them"):
        read_job(build_parser(), AdaptationJob, run, ["--config", str(path), "--strategy", "full", *flags], FLAGS)(
            ThisProcess()
        )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_trials_race_on_ray_tune(values: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from posecore.cluster.machines import RayMachines

    settings = {
        "budget": "100steps",
        "tried_share": 0.5,
        "least_steps": 5,
        "scheduler": "asha",
        "at_once": 2,
        "eta": 2,
        "candidates": [*SEARCH["candidates"][:2], WILD],
    }
    config = job(values, search=settings)
    result = find_strategy(config, EVERYTHING, RayMachines())
    said = capfd.readouterr().out
    assert {name for name in ("head", "lora") if f"search    {name:<20}" in said} == {"head", "lora"}
    assert f"search    {'wild':<20} failed, and the others go on: training diverged in step " in said
    tags = result.run.tracking.client.get_run(result.run.run_id).data.tags
    assert tags["posecore.chosen"] in ("head", "lora")
    assert result.origin.begun is not None
    found = result.run.tracking.client.get_run(result.origin.run_id).data.metrics
    assert found["lost_steps"] + found["final_steps"] <= 100
    again = find_strategy(config, EVERYTHING, RayMachines())
    assert again.config == result.config
