"""The life of registered models on a real MLflow store: register, ask, gate, promote, roll back."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import promote as command
from posecore.errors import ConfigError, LineageError
from posecore.lineage import promotion
from posecore.lineage.dataset_inputs import DatasetUse, log_dataset_inputs
from posecore.lineage.promotion import Gate, PromotionConfig, alias_holder, history, move_off, promote, rollback
from posecore.lineage.tracking import RunLog, Tracking, TrackingConfig, connect
from posecore.lineage.versions import (
    WITHDRAWN_TAG,
    EvaluationResult,
    RegisteredVersion,
    get_version,
    record_evaluation,
)
from tests.support.tiny_store import write_store

EVAL = "e" * 64
OTHER_EVAL = "f" * 64
CHAMPION = "champion"


@pytest.fixture
def register(tracking: Tracking) -> Callable[..., RegisteredVersion]:
    """Creates versions without files, for tests of what happens after registration."""
    name = tracking.experiment

    def create(
        digest: str = EVAL,
        *,
        commercial_use: bool | None = True,
        data: str = "a" * 64,
        location: str = "/data/coco",
        **metrics: float,
    ) -> RegisteredVersion:
        if not tracking.client.search_registered_models(f"name = '{name}'"):
            tracking.client.create_registered_model(name)
        use = DatasetUse(
            name="coco",
            split="train",
            digest=data,
            role="training",
            location=location,
            license="X",
            commercial_use=commercial_use,
        )
        created = tracking.client.create_model_version(
            name, "file:///nowhere", tags={"dataset.training.coco/train": use.model_dump_json()}
        )
        version = RegisteredVersion(name, int(created.version))
        record_evaluation(tracking, version, [EvaluationResult(name="coco", digest=digest, metrics=metrics)])
        return version

    return create


def gates(*texts: str, max_regression: float | None = None, commercial_use: bool = False) -> PromotionConfig:
    parsed = tuple(Gate.parse(text) for text in texts)
    return PromotionConfig(gates=parsed, max_regression=max_regression, commercial_use=commercial_use)


def test_a_version_that_passes_gets_the_alias_and_a_record(
    tracking: Tracking, register: Callable[..., RegisteredVersion]
) -> None:
    version = register(AP=0.7)
    promote(tracking, version, CHAMPION, gates("coco/AP>=0.6"), reason="first")
    assert alias_holder(tracking, version.name, CHAMPION) == version
    (move,) = history(tracking, version.name, CHAMPION)
    assert (move.action, move.source, move.target, move.done, move.reason) == ("promote", None, 1, True, "first")
    report = json.loads(RunLog(tracking, move.run_id).read_file("gate.json"))
    assert report["promoted"] is True
    assert report["checks"] == [{"passed": True, "statement": "coco/AP is 0.7, required >= 0.6."}]


@pytest.mark.parametrize(
    ("gate", "sentence"),
    [
        ("coco/AP>=0.75", "coco/AP is 0.7, required >= 0.75."),
        ("coco/error<=2", "coco/error is 3, required <= 2."),
        ("mpii/PCKh>=90", "mpii/PCKh was not measured (measured: coco/AP, coco/AR, coco/error)."),
        ("coco/AR>=0", "coco/AR is nan, required >= 0."),
    ],
)
def test_a_failing_gate_keeps_the_alias_and_is_recorded(
    tracking: Tracking, register: Callable[..., RegisteredVersion], gate: str, sentence: str
) -> None:
    version = register(AP=0.7, AR=float("nan"), error=3.0)
    with pytest.raises(LineageError, match=re.escape(sentence)):
        promote(tracking, version, CHAMPION, gates(gate))
    assert alias_holder(tracking, version.name, CHAMPION) is None
    (move,) = history(tracking, version.name, CHAMPION)
    assert not move.done
    assert move.reason == sentence


@pytest.mark.parametrize(
    ("gate", "held", "candidate", "passes"),
    [
        ("coco/AP>=0.5", 0.7, 0.696, True),
        ("coco/AP>=0.5", 0.7, 0.69, False),
        ("coco/AP>=0.5", 0.7, 0.9, True),
        ("coco/AP<=5", 2.0, 2.004, True),
        ("coco/AP<=5", 2.0, 2.1, False),
    ],
)
def test_regression_is_measured_against_the_holder_in_the_gates_direction(
    tracking: Tracking,
    register: Callable[..., RegisteredVersion],
    gate: str,
    held: float,
    candidate: float,
    passes: bool,
) -> None:
    first, second = register(AP=held), register(AP=candidate)
    config = gates(gate, max_regression=0.005)
    promote(tracking, first, CHAMPION, config)
    if passes:
        promote(tracking, second, CHAMPION, config)
    else:
        with pytest.raises(LineageError, match="worse, allowed regression"):
            promote(tracking, second, CHAMPION, config)
    assert alias_holder(tracking, first.name, CHAMPION) == (second if passes else first)


def test_figures_on_other_evaluation_data_are_not_compared(
    tracking: Tracking, register: Callable[..., RegisteredVersion]
) -> None:
    first, second = register(AP=0.7), register(OTHER_EVAL, AP=0.9)
    config = gates("coco/AP>=0.5", max_regression=0.005)
    promote(tracking, first, CHAMPION, config)
    with pytest.raises(LineageError, match="not measured on the same evaluation data"):
        promote(tracking, second, CHAMPION, config)
    # The holder, measured on the new set, too: now there is something to compare.
    record_evaluation(tracking, first, [EvaluationResult(name="coco", digest=OTHER_EVAL, metrics={"AP": 0.8})])
    promote(tracking, second, CHAMPION, config)
    assert alias_holder(tracking, first.name, CHAMPION) == second


@pytest.mark.parametrize("commercial_use", [False, None])
def test_unclear_licences_are_refused_where_commercial_use_is_required(
    tracking: Tracking, register: Callable[..., RegisteredVersion], commercial_use: bool | None, tmp_path: Path
) -> None:
    free, bound = (write_store(tmp_path / str(number), "coco", [number]) for number in (1, 2))
    allowed = register(data=free.manifest.digest, location=str(free.location))
    refused = register(data=bound.manifest.digest, location=str(bound.location), commercial_use=commercial_use)
    unread = register()
    # Other tests of this store may have called the same digest otherwise, too.
    unknown = r"not known: the pictures' own licences of [^;]*coco/train[^;]* aaaaaaaaaaaa"
    with pytest.raises(LineageError, match=unknown):
        promote(tracking, unread, "product", gates(commercial_use=True))
    with pytest.raises(LineageError, match=r"not stated as allowed: coco/train \(X\) (forbids it|does not say)"):
        promote(tracking, refused, "product", gates(commercial_use=True))
    promote(tracking, allowed, "product", gates(commercial_use=True))


def test_rollback_undoes_moves_one_by_one(tracking: Tracking, register: Callable[..., RegisteredVersion]) -> None:
    one, two, three = register(), register(), register()
    name = one.name
    for version in (one, two, three):
        promote(tracking, version, CHAMPION, gates())
    assert rollback(tracking, name, CHAMPION, "worse on infants") == two
    assert alias_holder(tracking, name, CHAMPION) == two
    promote(tracking, three, CHAMPION, gates())
    assert rollback(tracking, name, CHAMPION, "still worse") == two
    assert rollback(tracking, name, CHAMPION, "this one, too") == one
    assert rollback(tracking, name, CHAMPION, "none is good") is None
    assert alias_holder(tracking, name, CHAMPION) is None
    with pytest.raises(LineageError, match="no recorded move"):
        rollback(tracking, name, CHAMPION, "again")
    moves = [(move.action, move.source, move.target) for move in history(tracking, name, CHAMPION)]
    assert moves == [
        ("promote", None, 1),
        ("promote", 1, 2),
        ("promote", 2, 3),
        ("rollback", 3, 2),
        ("promote", 2, 3),
        ("rollback", 3, 2),
        ("rollback", 2, 1),
        ("rollback", 1, None),
    ]
    assert history(tracking, name, CHAMPION)[3].reason == "worse on infants"


def test_a_rollback_needs_a_reason_and_a_record_that_fits(
    tracking: Tracking, register: Callable[..., RegisteredVersion]
) -> None:
    one, two = register(), register()
    promote(tracking, one, CHAMPION, gates())
    with pytest.raises(LineageError, match="needs a reason"):
        rollback(tracking, one.name, CHAMPION, " ")
    tracking.client.set_registered_model_alias(two.name, CHAMPION, "2")
    with pytest.raises(LineageError, match="points at version 2, the record says version 1"):
        rollback(tracking, one.name, CHAMPION, "bad")


def test_a_rollback_passes_over_what_is_deleted_or_has_seen_what_was_withdrawn(
    tracking: Tracking, register: Callable[..., RegisteredVersion]
) -> None:
    versions = [register() for _ in range(4)]
    for version in versions:
        promote(tracking, version, CHAMPION, gates())
    one, two, three, _ = versions
    tracking.client.delete_model_version(three.name, str(three.version))
    tracking.client.set_model_version_tag(two.name, str(two.version), WITHDRAWN_TAG, "run")
    assert rollback(tracking, one.name, CHAMPION, "worse") == one
    assert rollback(tracking, one.name, CHAMPION, "worse, too") is None
    with pytest.raises(LineageError, match="has seen what was withdrawn since"):
        promote(tracking, two, CHAMPION, gates())


def test_an_alias_is_moved_off_a_version_wherever_its_moves_were_recorded(
    tracking: Tracking, register: Callable[..., RegisteredVersion], store_folder: Path
) -> None:
    one, two, three = register(), register(), register()
    for version in (one, two, three):
        promote(tracking, version, "staging", gates())
    elsewhere = connect(TrackingConfig(uri=tracking.uri, experiment="withdrawals"), store_folder)
    assert move_off(elsewhere, three, "staging", {one}.__contains__, "withdrawal of x") == one
    assert alias_holder(tracking, one.name, "staging") == one
    assert history(tracking, one.name, "staging")[-1].action == "withdrawal"
    assert rollback(tracking, one.name, "staging", "not good either") is None
    assert history(tracking, "nobody's model", "staging") == []


def test_of_two_promotions_at_once_the_later_one_is_told(
    tracking: Tracking, register: Callable[..., RegisteredVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = register(AP=0.7), register(AP=0.8)
    checked = promotion.check_gates

    def slowly(*given: Any) -> list[promotion.Check]:
        monkeypatch.undo()
        promote(tracking, two, CHAMPION, gates())
        return checked(*given)

    monkeypatch.setattr(promotion, "check_gates", slowly)
    with pytest.raises(LineageError, match="champion is held by version 2 since the gates were checked"):
        promote(tracking, one, CHAMPION, gates())
    assert alias_holder(tracking, one.name, CHAMPION) == two
    assert [move.done for move in sorted(history(tracking, one.name, CHAMPION), key=lambda move: move.done)] == [
        False,
        True,
    ]


def test_a_crash_before_the_move_promotes_nothing(
    tracking: Tracking, register: Callable[..., RegisteredVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tracking.client), "set_registered_model_alias", crash)
    with pytest.raises(KeyboardInterrupt):
        promote(tracking, version, CHAMPION, gates())
    monkeypatch.undo()
    assert [move.done for move in history(tracking, version.name, CHAMPION)] == [False]
    promote(tracking, version, CHAMPION, gates())
    assert [move.done for move in history(tracking, version.name, CHAMPION)] == [False, True]


def test_a_crash_after_the_move_is_settled_by_the_alias(
    tracking: Tracking, register: Callable[..., RegisteredVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register()

    def crash(_: RunLog, status: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "end", crash)
    with pytest.raises(KeyboardInterrupt):
        promote(tracking, version, CHAMPION, gates())
    monkeypatch.undo()
    assert [move.done for move in history(tracking, version.name, CHAMPION)] == [True]
    assert rollback(tracking, version.name, CHAMPION, "undo") is None


def test_promoting_the_holder_or_an_unknown_version_is_refused(
    tracking: Tracking, register: Callable[..., RegisteredVersion]
) -> None:
    version = register()
    promote(tracking, version, CHAMPION, gates())
    with pytest.raises(LineageError, match="already holds"):
        promote(tracking, version, CHAMPION, gates())
    with pytest.raises(LineageError, match="version 9"):
        promote(tracking, RegisteredVersion(version.name, 9), CHAMPION, gates())


@pytest.mark.parametrize("text", ["coco/AP", "coco/AP>0.5", "coco/AP>=high", ">=0.5", "coco/AP>=1.2.3"])
def test_a_misspelt_gate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected set/metric>=number"):
        Gate.parse(text)


def test_dataset_inputs_can_be_searched_by_digest(tracking: Tracking) -> None:
    run = tracking.start_run("train", {})
    use = DatasetUse(
        name="coco", split="train", digest="ab" * 32, role="training", location="/data/coco", license="X", weight=0.7
    )
    log_dataset_inputs(run, [use])
    (found,) = tracking.client.search_runs([tracking.experiment_id], f"dataset.digest = '{'ab' * 16}'")
    (recorded,) = found.inputs.dataset_inputs
    assert recorded.dataset.name == "coco/train"
    assert json.loads(recorded.dataset.source)["manifest_sha256"] == use.digest
    assert {tag.key: tag.value for tag in recorded.tags} == {
        "mlflow.data.context": "training",
        "license": "X",
        "commercial_use": "None",
        "weight": "0.7",
    }


def test_the_command_promotes_refuses_rolls_back_and_tells(
    tracking: Tracking,
    register: Callable[..., RegisteredVersion],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register(AP=0.5)
    register(AP=0.7)
    base = ["--tracking-uri", tracking.uri, "--experiment", tracking.experiment, "--model", tracking.experiment]

    assert command.main([*base, "--version", "1", "--gate", "coco/AP>=0.6"]) == 1
    assert "coco/AP is 0.5, required >= 0.6." in capsys.readouterr().err

    (tmp_path / "gates.yaml").write_text("gates: ['coco/AP>=0.6']\nmax_regression: 0.005\n")
    assert command.main([*base, "--version", "2", "--config", str(tmp_path / "gates.yaml"), "--reason", "better"]) == 0
    assert get_version(tracking, tracking.experiment, 2).aliases == [CHAMPION]
    assert "version 2 is now champion" in capsys.readouterr().out

    assert command.main([*base, "--rollback", "--reason", "a mistake"]) == 0
    assert get_version(tracking, tracking.experiment, 2).aliases == []
    capsys.readouterr()

    assert command.main([*base, "--history"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == ["promote", "promote", "rollback"]
    assert "refused" in lines[0]
    assert "a mistake" in lines[2]


def test_the_command_names_a_typo_in_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gates.yaml").write_text("gatse: ['coco/AP>=0.6']\n")
    assert command.main(["--model", "m", "--version", "1", "--config", str(tmp_path / "gates.yaml")]) == 1
    assert "gatse: Extra inputs are not permitted" in capsys.readouterr().err
