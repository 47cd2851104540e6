"""Which errors of a worker end a training, and that they arrive as they were raised."""

import inspect
from pathlib import Path

import pytest

from posecore import errors
from posecore.cluster.endings import ClusterLostError
from posecore.cluster.verdicts import Verdict, comes_again
from posecore.errors import IntegrityError, LineageError, PoseCoreError, PreflightError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PoseCoreError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_arrives_as_it_was(tmp_path: Path, kind: type[PoseCoreError]) -> None:
    file = tmp_path / "verdict.json"
    assert Verdict.left_in(file) is None
    Verdict.of(kind("shard 3: ümläut, and what to do.")).leave_in(file)
    left = Verdict.left_in(file)
    assert left is not None
    assert type(left.error()) is kind
    assert str(left.error()) == "shard 3: ümläut, and what to do."


def test_what_is_no_kind_of_the_tree_arrives_as_what_it_derives_from() -> None:
    class OwnError(IntegrityError):
        """Of somebody's worker."""

    assert type(Verdict.of(OwnError("x")).error()) is IntegrityError


def test_services_and_machines_may_have_recovered_by_the_next_attempt() -> None:
    passing = {kind for kind in KINDS if not comes_again(kind("x"))}
    assert passing == {PreflightError, LineageError}
    assert not comes_again(ClusterLostError("x"))


def test_a_verdict_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    Verdict.of(IntegrityError("x")).leave_in(tmp_path / "file" / "verdict.json")
