"""The life of registered models on a real MLflow store: figures, policies, promotion, rollback, history."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pipelines import promote as command
from posecore.errors import ConfigError, LineageError
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.jobs.steps import OUTPUTS_FILE
from posecore.lineage.registry import moves, promotion
from posecore.lineage.registry.gates import Gate, Requirements
from posecore.lineage.registry.moves import alias_holder, history
from posecore.lineage.registry.policies import policies_in_force, register_policies
from posecore.lineage.registry.promotion import move_off, promote, rollback, way_back
from posecore.lineage.store.identity import owner_of_process
from posecore.lineage.store.ledger import is_ledger, moves_of
from posecore.lineage.store.tracking import RunLog, Tracking, TrackingConfig, connect
from posecore.lineage.versions.dataset_inputs import DatasetUse, log_dataset_inputs
from posecore.lineage.versions.tags import WITHDRAWN_TAG, RegisteredVersion, get_version
from tests.support.clinical_cases import clinical_result
from tests.support.measured_versions import EVAL, measured, registered
from tests.support.tiny_store import instance, record, write_store

OTHER_EVAL = "f" * 64
CHAMPION = "champion"
Register = Callable[..., RegisteredVersion]


@pytest.fixture
def register(tracking: Tracking, tmp_path: Path) -> Register:
    """Creates versions without weights, and the evaluations of them."""
    count = 0

    def create(
        digest: str = EVAL,
        *,
        commercial_use: bool | None = True,
        data: str = "a" * 64,
        location: str = "/data/coco",
        name: str | None = None,
        **metrics: float,
    ) -> RegisteredVersion:
        nonlocal count
        count += 1
        use = DatasetUse(
            name="coco",
            split="train",
            digest=data,
            role="training",
            location=location,
            license="X",
            commercial_use=commercial_use,
        )
        weights = hashlib.sha256(f"{tracking.experiment} {count}".encode()).hexdigest()
        version = registered(tracking, tmp_path, weights, use, name)
        if metrics:
            measured(tracking, version, metrics, digest=digest)
        return version

    return create


def gates(*texts: str, **fields: Any) -> Requirements:
    return Requirements(gates=tuple(Gate.parse(text) for text in texts), **fields)


def govern(tracking: Tracking, folder: Path, text: str) -> int:
    """Registers a policy of the test's own models for the alias ``champion``."""
    lines = "\n".join(f"    {line}" for line in text.splitlines())
    file = folder / "policies.yaml"
    file.write_text(f"policies:\n  - alias: champion\n    models: [{tracking.experiment}]\n{lines}\n")
    return register_policies(tracking, file, "the board")


def test_a_version_that_passes_gets_the_alias_and_a_record(tracking: Tracking, register: Register) -> None:
    version = register(AP=0.7)
    promote(tracking, version, CHAMPION, gates("coco/AP>=0.6"), reason="first")
    assert alias_holder(tracking, version.name, CHAMPION) == version
    (move,) = history(tracking, version.name, CHAMPION)
    assert (move.action, move.source, move.target, move.done, move.reason) == ("promote", None, 1, True, "first")
    report = json.loads(RunLog(tracking, move.run_id).read_file("gate.json"))
    assert report["promoted"] is True
    assert report["checks"] == [{"passed": True, "statement": "coco/AP is 0.7, required >= 0.6."}]


def test_a_failing_gate_keeps_the_alias_and_is_recorded(tracking: Tracking, register: Register) -> None:
    version, sentence = register(AP=0.7, AR=float("nan")), "coco/AP is 0.7, required >= 0.75."
    with pytest.raises(LineageError, match=re.escape(sentence)):
        promote(tracking, version, CHAMPION, gates("coco/AP>=0.75"))
    assert alias_holder(tracking, version.name, CHAMPION) is None
    (move,) = history(tracking, version.name, CHAMPION)
    assert not move.done
    assert move.reason == sentence


def test_figures_on_other_evaluation_data_are_not_compared(tracking: Tracking, register: Register) -> None:
    first, second = register(AP=0.7), register(OTHER_EVAL, AP=0.9)
    config = gates("coco/AP>=0.5", max_regression=0.005)
    promote(tracking, first, CHAMPION, config)
    with pytest.raises(LineageError, match="not measured on the same evaluation data"):
        promote(tracking, second, CHAMPION, config)
    # The holder, measured on the new set, too: now there is something to compare.
    measured(tracking, first, {"AP": 0.8}, digest=OTHER_EVAL, code="d" * 64)
    with pytest.raises(LineageError, match="was not measured by the same code and settings"):
        promote(tracking, second, CHAMPION, config)
    measured(tracking, first, {"AP": 0.8}, digest=OTHER_EVAL)
    promote(tracking, second, CHAMPION, config)
    assert alias_holder(tracking, first.name, CHAMPION) == second


@pytest.mark.parametrize("commercial_use", [False, None])
def test_unclear_licences_are_refused_where_commercial_use_is_required(
    tracking: Tracking, register: Register, commercial_use: bool | None, tmp_path: Path
) -> None:
    free, bound = (write_store(tmp_path / str(number), "coco", [number]) for number in (1, 2))
    allowed = register(data=free.manifest.digest, location=str(free.location))
    refused = register(data=bound.manifest.digest, location=str(bound.location), commercial_use=commercial_use)
    unread = register()
    # Other tests of this store may have called the same digest otherwise, too.
    unknown = r"not known: the pictures' own licences of [^;]*coco/train[^;]* aaaaaaaaaaaa"
    with pytest.raises(LineageError, match=unknown):
        promote(tracking, unread, "product", gates(use=("commercial",)))
    with pytest.raises(LineageError, match=r"not stated as allowed: coco/train \(X\) (forbids it|does not say)"):
        promote(tracking, refused, "product", gates(use=("commercial",)))
    promote(tracking, allowed, "product", gates(use=("commercial",)))


def test_rollback_undoes_moves_one_by_one(tracking: Tracking, register: Register) -> None:
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
    with pytest.raises(LineageError, match="no recorded promotion"):
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


def test_a_rollback_needs_a_reason_and_leads_from_a_hand_move_to_what_was_promoted_last(
    tracking: Tracking, register: Register
) -> None:
    one, two = register(), register()
    promote(tracking, one, CHAMPION)
    with pytest.raises(LineageError, match="needs a reason"):
        rollback(tracking, one.name, CHAMPION, " ")
    tracking.client.set_registered_model_alias(two.name, CHAMPION, "2")
    assert way_back(tracking, one.name, CHAMPION).target == one
    assert alias_holder(tracking, one.name, CHAMPION) == two
    assert rollback(tracking, one.name, CHAMPION, "nobody knows who did that") == one
    told = [(move.action, move.source, move.target) for move in history(tracking, one.name, CHAMPION)]
    assert told == [("promote", None, 1), ("by hand", 1, 2), ("rollback", 2, 1)]
    tracking.client.delete_registered_model_alias(one.name, CHAMPION)
    last = history(tracking, one.name, CHAMPION)[-1]
    assert (last.action, last.source, last.target, last.done) == ("by hand", 1, None, True)


def test_a_rollback_passes_over_what_is_deleted_or_has_seen_what_was_withdrawn(
    tracking: Tracking, register: Register
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
    tracking: Tracking, register: Register, store_folder: Path
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


@contextmanager
def impatient_sqlite() -> Iterator[None]:
    """SQLite as it is on a slow disk: whoever finds another writer does not wait for 20 s, but is refused soon."""

    def hurried(*called: Any) -> tuple[str, Any]:
        _, _, statement, parameters, *_ = called
        return statement.replace("busy_timeout = 20000", "busy_timeout = 20"), parameters

    event.listen(Engine, "before_cursor_execute", hurried, retval=True)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", hurried)


def test_of_two_promotions_at_once_the_second_is_refused(tracking: Tracking, register: Register) -> None:
    """Eight at once, each sure that it saw the alias free: one moves, and every other is told who has it."""
    versions = [register() for _ in range(8)]
    name = versions[0].name
    seen = moves.look(tracking, name, CHAMPION)
    runs = [moves.begin_attempt(tracking, "promote", seen, version, "") for version in versions]
    for run in runs:
        run.log_dict({}, moves.REPORT)
    start = threading.Barrier(8)

    def attempt(version: RegisteredVersion, run: RunLog) -> str:
        start.wait()
        try:
            moves.move(tracking, seen, version, run, 0, "a race")
        except LineageError as error:
            return str(error)
        return ""

    with impatient_sqlite(), ThreadPoolExecutor(8) as threads:
        told = sorted(threads.map(attempt, versions, runs))
    holder = alias_holder(tracking, name, CHAMPION)
    assert holder is not None
    assert told[0] == ""
    assert all("was moved by somebody else meanwhile and is held by" in sentence for sentence in told[1:]), told
    done = [move for move in history(tracking, name, CHAMPION) if move.done]
    assert [(move.source, move.target) for move in done] == [(None, holder.version)]
    assert moves.look(tracking, name, CHAMPION).holder == holder


def test_a_hand_move_while_the_gates_are_checked_is_not_overwritten(
    tracking: Tracking, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = register(AP=0.7), register(AP=0.8)
    checked = promotion.check

    def slowly(*given: Any) -> list[promotion.Check]:
        tracking.client.set_registered_model_alias(two.name, CHAMPION, str(two.version))
        return checked(*given)

    monkeypatch.setattr(promotion, "check", slowly)
    with pytest.raises(LineageError, match="moved by somebody else meanwhile and is held by version 2"):
        promote(tracking, one, CHAMPION, gates("coco/AP>=0.5"))
    assert alias_holder(tracking, one.name, CHAMPION) == two


@pytest.mark.parametrize("dies_at", ["append", "_point", "end"])
def test_a_move_whose_driver_dies_is_made_by_whoever_looks_next_or_not_at_all(
    tracking: Tracking, register: Register, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    one, two = register(), register()

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    place = {"append": moves.ledger, "_point": moves, "end": RunLog}[dies_at]
    monkeypatch.setattr(place, dies_at, crash)
    with pytest.raises(KeyboardInterrupt):
        promote(tracking, one, CHAMPION)
    monkeypatch.undo()
    moved = dies_at != "append"
    assert [move.done for move in history(tracking, one.name, CHAMPION)] == [moved]
    assert alias_holder(tracking, one.name, CHAMPION) == (one if moved else None)
    promote(tracking, two, CHAMPION)
    assert rollback(tracking, one.name, CHAMPION, "undo") == (one if moved else None)


def test_what_was_deleted_before_its_move_was_finished_holds_nothing_up(
    tracking: Tracking, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = register(), register()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moves, "_point", crash)
    with pytest.raises(KeyboardInterrupt):
        promote(tracking, one, CHAMPION)
    monkeypatch.undo()
    tracking.client.delete_model_version(one.name, str(one.version))
    promote(tracking, two, CHAMPION)
    assert alias_holder(tracking, one.name, CHAMPION) == two


def test_promoting_the_holder_or_an_unknown_version_is_refused(tracking: Tracking, register: Register) -> None:
    version = register()
    promote(tracking, version, CHAMPION, gates())
    with pytest.raises(LineageError, match="already holds"):
        promote(tracking, version, CHAMPION, gates())
    with pytest.raises(LineageError, match="version 9"):
        promote(tracking, RegisteredVersion(version.name, 9), CHAMPION, gates())


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


def test_a_governed_alias_moves_only_as_its_policies_ask(
    tracking: Tracking, register: Register, tmp_path: Path
) -> None:
    bad, good, better = register(AP=0.4), register(AP=0.7), register(AP=0.71)
    number = govern(tracking, tmp_path, "gates: [coco/AP>=0.6]\nmax_regression: 0.005\nbodies: 100\nsubjects: 20")
    with pytest.raises(LineageError, match=re.escape("coco/AP is 0.4, required >= 0.6.")):
        promote(tracking, bad, CHAMPION)
    promote(tracking, good, CHAMPION)
    promote(tracking, bad, "trial")  # which nobody governs
    promote(tracking, better, CHAMPION)
    report = json.loads(RunLog(tracking, history(tracking, good.name, CHAMPION)[-1].run_id).read_file(moves.REPORT))
    assert report["policies"]["number"] == number
    assert report["required"][0]["subjects"] == 20
    assert "coco was judged on 100 bodies, required at least 100." in [line["statement"] for line in report["checks"]]
    # Of an alias that was promoted under them, older ones do not hold again.
    tracking.client.delete_model_version("posecore policies", str(number))
    with pytest.raises(LineageError, match=f"last moved under policies {number}"):
        promote(tracking, good, CHAMPION)
    govern(tracking, tmp_path, "gates: [coco/AP>=0.75]")
    with pytest.raises(LineageError, match=r"required >= 0\.75"):
        promote(tracking, good, CHAMPION)


def test_an_edited_tag_or_result_is_no_figure(tracking: Tracking, register: Register, tmp_path: Path) -> None:
    govern(tracking, tmp_path, "gates: [coco/AP>=0.6]")
    version, other = register(AP=0.4), register(AP=0.9)
    name, number = version.name, str(version.version)
    key = next(key for key in get_version(tracking, name, number).tags if key.startswith("evaluation."))
    tracking.client.set_model_version_tag(
        name, number, key, json.dumps({"name": "coco", "digest": EVAL, "metrics": {"AP": 0.99}})
    )
    with pytest.raises(LineageError, match=re.escape("coco/AP is 0.4, required >= 0.6.")):
        promote(tracking, version, CHAMPION)
    stolen = get_version(tracking, name, other.version).tags["sha256"]
    own = get_version(tracking, name, number).tags["sha256"]
    tracking.client.set_model_version_tag(name, number, "sha256", stolen)
    with pytest.raises(LineageError, match=f"its files are weights {own[:12]}, its tag sha256 says {stolen[:12]}"):
        promote(tracking, version, CHAMPION)
    tracking.client.set_model_version_tag(name, number, "sha256", own)
    run = RunLog(tracking, measured(tracking, version, {"AP": 0.45}))
    outputs = json.loads(run.read_file(OUTPUTS_FILE))
    outputs["values"]["metrics"]["coco"]["AP"] = 0.99
    run.log_dict(outputs, OUTPUTS_FILE)
    with pytest.raises(LineageError, match=f"run {run.run_id}: its result is not the one"):
        promote(tracking, version, CHAMPION)
    assert alias_holder(tracking, name, CHAMPION) is None


def test_groups_are_compared_by_the_files_that_evaluations_wrote(
    tracking: Tracking, register: Register, tmp_path: Path
) -> None:
    holder, worse = register(), register()
    for version, nearer in ((holder, 0.5), (worse, 0.2)):
        clinical = clinical_result(nearer=nearer)
        run = measured(tracking, version, clinical.headline(), clinical=clinical, folder=tmp_path)
    govern(tracking, tmp_path, "gates: [coco/torso/error<=9]\nsubgroups: {posture: 0.01}")
    promote(tracking, holder, CHAMPION)
    with pytest.raises(LineageError, match=r"coco, posture Prone: error .* allowed 0\.01 torso lengths"):
        promote(tracking, worse, CHAMPION)
    log = RunLog(tracking, run)
    (tmp_path / "clinical.json").write_bytes(clinical_result(nearer=0.9).to_json())
    log.log_file(tmp_path / "clinical.json", "coco")
    with pytest.raises(LineageError, match=f"run {run}: coco/clinical.json is not what the evaluation wrote"):
        promote(tracking, worse, CHAMPION)


def test_what_an_ancestor_learned_from_may_not_be_what_is_judged_on(
    tracking: Tracking, register: Register, tmp_path: Path
) -> None:
    box = (20.0, 10.0, 90.0, 100.0)
    bodies = [record("coco", row, [instance(str(row), 17, box)]) for row in range(3)]
    judged = write_store(tmp_path / "judged", "coco", (), records=bodies)
    other = tmp_path / "clean" / "raw" / "other" / "0.png"
    other.parent.mkdir(parents=True)
    other.write_bytes(cv2.imencode(".png", np.random.default_rng(99).integers(0, 255, (120, 160, 3), np.uint8))[1])
    clean = write_store(tmp_path / "clean", "other", [7])
    ok = register(data=clean.manifest.digest, location=str(clean.location))
    leaking = register(data=judged.manifest.digest, location=str(judged.location))
    govern(tracking, tmp_path, "gates: [coco/AP>=0.5]\nno_leaked_pairs: true")
    for version in (ok, leaking):
        digest = judged.manifest.digest
        measured(tracking, version, {"AP": 0.7}, digest=digest, location=str(judged.location))
    with pytest.raises(LineageError, match=r"coco/\w+ and coco/\w+ share 3 exact"):
        promote(tracking, leaking, CHAMPION)
    said = " ".join(check.statement for check in promote(tracking, ok, CHAMPION))
    assert "nothing it learned from (1 set) shares a picture, subject or video" in said
    gone = register(AP=0.7, data="9" * 64)
    with pytest.raises(LineageError, match="was not compared with what the model learned from"):
        promote(tracking, gone, CHAMPION)


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A real HTTP server on loopback that keeps what it is sent."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/moved", told
        finally:
            server.shutdown()
            thread.join()


def test_every_move_is_told_to_whom_the_policy_names(tracking: Tracking, register: Register, tmp_path: Path) -> None:
    one, two = register(AP=0.7), register(AP=0.8)
    with listening() as (url, told):
        govern(tracking, tmp_path, f"gates: [coco/AP>=0.5]\nnotify: ['{url}']")
        for version in (one, two):
            promote(tracking, version, CHAMPION, reason="better")
        rollback(tracking, one.name, CHAMPION, "worse")
    assert [(each["action"], each["from"], each["to"], each["reason"]) for each in told] == [
        ("promote", None, 1, "better"),
        ("promote", 1, 2, "better"),
        ("rollback", 2, 1, "worse"),
    ]
    assert told[0]["user"] == owner_of_process()
    (problem,) = [check for check in promote(tracking, two, CHAMPION) if not check.passed]
    assert "was not told of the move" in problem.statement
    assert alias_holder(tracking, one.name, CHAMPION) == two


def test_an_odd_name_and_deleted_records_lose_no_history(
    tracking: Tracking, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "somebody else")
    name = f'the ward\'s "{tracking.experiment}"'
    one, two = register(name=name), register(name=name)
    promote(tracking, one, CHAMPION)
    promote(tracking, two, CHAMPION)
    first = history(tracking, name, CHAMPION)[0]
    assert first.user == owner_of_process()
    tracking.client.delete_run(first.run_id)
    assert [move.target for move in history(tracking, name, CHAMPION)] == [1, 2]
    assert rollback(tracking, name, CHAMPION, "worse") == one
    assert is_ledger(moves_of(name, CHAMPION))
    assert not any(is_ledger(record.version.name) for record in LineageGraph.load(tracking).versions.values())


def test_policies_that_were_changed_since_move_nothing(tracking: Tracking, register: Register, tmp_path: Path) -> None:
    version = register(AP=0.4)
    number = govern(tracking, tmp_path, "gates: [coco/AP>=0.6]")
    found = tracking.client.get_model_version("posecore policies", str(number))
    tracking.client.log_text(found.run_id, "policies: []\n", "policies.yaml")
    with pytest.raises(LineageError, match=f"policies {number}: policies.yaml of run .* is not what was registered"):
        promote(tracking, version, CHAMPION)
    govern(tracking, tmp_path, "gates: [coco/AP>=0.6]")
    assert policies_in_force(tracking).number == number + 1


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("gatse: [coco/AP>=0.6]", "gatse: Extra inputs are not permitted"),
        ("bodies: 3", "the policy of champion asks for nothing"),
        ("gates: [coco/AP>=0.6]\nnotify: ['file:///etc']", "is no http or https URL"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(
    tracking: Tracking, tmp_path: Path, policy: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        govern(tracking, tmp_path, policy)


def test_the_command_promotes_refuses_rolls_back_and_tells(
    tracking: Tracking, register: Register, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(AP=0.5)
    register(AP=0.7)
    base = ["--tracking-uri", tracking.uri, "--experiment", tracking.experiment]
    own = [*base, "--model", tracking.experiment]
    file = tmp_path / "policies.yaml"
    file.write_text(f"policies:\n- {{alias: champion, models: [{tracking.experiment}], gates: ['coco/AP>=0.6']}}\n")
    assert command.main([*base, "--register-policies", str(file), "--reason", "the board"]) == 0
    assert "hold from now on" in capsys.readouterr().out
    assert command.main([*base, "--policies"]) == 0
    assert "gates: ['coco/AP>=0.6']" in capsys.readouterr().out

    assert command.main([*own, "--version", "1"]) == 1
    assert "coco/AP is 0.5, required >= 0.6." in capsys.readouterr().err
    assert command.main([*own, "--version", "1", "--alias", "trial", "--gate", "coco/AP>=0.6"]) == 1
    runs = len(tracking.client.search_runs([tracking.experiment_id]))
    assert command.main([*own, "--version", "1", "--dry-run"]) == 1
    told = capsys.readouterr()
    assert "FAILS  coco/AP is 0.5, required >= 0.6." in told.out
    assert "version 1 would not be promoted" in told.err
    assert command.main([*own, "--version", "2", "--dry-run"]) == 0
    assert "champion would move from no version to version 2; nothing was changed." in capsys.readouterr().out
    assert command.main([*base, "--register-policies", str(file), "--dry-run"]) == 0
    assert "would hold: 1, of champion; nothing was changed." in capsys.readouterr().out
    assert len(tracking.client.search_runs([tracking.experiment_id])) == runs
    assert get_version(tracking, tracking.experiment, 2).aliases == []
    assert command.main([*own, "--version", "2", "--max-regression", "0.005", "--reason", "better"]) == 0
    assert get_version(tracking, tracking.experiment, 2).aliases == [CHAMPION]
    assert "version 2 is now champion" in capsys.readouterr().out

    assert command.main([*own, "--rollback", "--dry-run"]) == 0
    assert "champion would move from version 2 to no version; nothing was changed." in capsys.readouterr().out
    assert get_version(tracking, tracking.experiment, 2).aliases == [CHAMPION]
    assert command.main([*own, "--rollback", "--reason", "a mistake"]) == 0
    assert get_version(tracking, tracking.experiment, 2).aliases == []
    capsys.readouterr()

    assert command.main([*own, "--history"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == ["promote", "promote", "rollback"]
    assert "refused" in lines[0]
    assert "a mistake" in lines[2]
