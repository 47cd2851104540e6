"""A small sample of the campaign of ``benchmarks/faults.py``, with a fixed seed; and that its oracle notices."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import faults_inputs
from benchmarks.faults_inputs import VERDICTS, Subject, campaign, subjects


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return subjects(tmp_path_factory.mktemp("inputs"))


def test_no_damaged_input_is_read_wrong_hangs_or_ends_in_a_stack_of_calls(made: dict[str, Subject]) -> None:
    for name, subject in made.items():
        tally = campaign(name, subject, 24, seed=12)
        assert sum(tally.counts.values()) == 24
        assert not any(tally.counts[verdict] for verdict in VERDICTS[2:]), tally.examples
        assert tally.counts["refused well"] > 0, f"nothing of {name} was refused"


def _shifted(read: Callable[[], Any]) -> Any:
    answer = read()
    answer[0]["instances"][0]["keypoints"][0][0] += 1
    return answer


def _late() -> Any:
    time.sleep(1)


def _hungry() -> Any:
    return bytearray(faults_inputs.LIMIT_BYTES + (64 << 20))


def test_the_campaign_notices_what_it_looks_for(
    made: dict[str, Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = made["coco JSON"]
    first = True

    def wrong_once_damaged() -> Any:
        nonlocal first
        first, was = False, first
        return healthy.read() if was else _shifted(healthy.read)

    tally = campaign("shifted", replace(healthy, read=wrong_once_damaged), 30, seed=1)
    assert tally.counts["silently wrong"] > 0
    assert tally.counts["harmless"] == 0
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, 2, 3]}')
    monkeypatch.setattr(faults_inputs, "LIMIT_S", 0.05)
    for read, verdict in ((_late, "hang"), (_hungry, "raw traceback")):
        assert faults_inputs._judge(Subject(path, read), b"", None)[0] == verdict
