"""What is said of a model that was trained again and came out otherwise."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from posecore.cli.jobs import JOBS
from posecore.cli.rerun import foreseen
from posecore.errors import LineageError
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.difference import VersionFacts
from posecore.lineage.versions.tags import RESUMED_CODE, RegisteredVersion
from posecore.workflows.rerun import COMMANDS, Recorded, _check_code, differences


def _recorded(digest: str = "a" * 64, packages: Mapping[str, str] | None = None, **changes: object) -> Recorded:
    version = RegisteredVersion("pose", 1)
    use = DatasetUse(name="coco", split="train", digest=digest, role="training", license="CC0-1.0")
    facts = VersionFacts(
        version=version,
        parameters={},
        code={},
        packages={"torch": "2.13.0", "tqdm": "4"} if packages is None else packages,
        datasets=[use],
        weights=[],
        evaluations=[],
    )
    made = Recorded(
        version=version,
        facts=facts,
        tags={},
        job="train",
        config={},
        with_ray=True,
        hardware={"2 x Xeon (1 threads), 1 x Xeon (2 threads) on 2 hosts": 9},
        python="3.11.7",
    )
    return replace(made, **changes)


def test_every_job_that_registers_can_be_run_again() -> None:
    for name, command in COMMANDS.items():
        module = importlib.import_module(f"pipelines.{JOBS[command][0]}")
        assert vars(module)[name].__name__ == name, "the tag of a submission is the class of its run file"


def test_what_would_be_trained_again_is_told_without_doing_it() -> None:
    config = {"data_folder": "/data", "datasets": [{"name": "coco", "root": "coco2017"}]}
    told = foreseen(_recorded(config=config, tags={"code": "c" * 64}), Path("/again"), None)
    assert told.splitlines() == [
        "version   models:/pose/1",
        "job       posecore train, 3 processes by Ray",
        "code      cccccccccccc",
        "data      coco coco2017 of /data",
        "out       /again",
    ]
    assert " of /elsewhere" in foreseen(_recorded(config=config), Path("/again"), "/elsewhere")


def test_nothing_is_said_of_what_is_the_same() -> None:
    assert list(differences(_recorded(), _recorded())) == []
    assert _recorded().processes == 3


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        (_recorded(digest="b" * 64), "the data of coco/train is another: aaaaaaaaaaaa, then bbbbbbbbbbbb"),
        (
            _recorded(packages={"torch": "2.14.0", "av": "1"}),
            "other packages: torch 2.13.0, then 2.14.0, av –, then 1, tqdm 4, then –",
        ),
        (_recorded(python="3.12.1"), "Python 3.11.7, then 3.12.1"),
        (
            _recorded(hardware={"1 x Xeon (1 threads) on 1 host": 9}),
            r"then on 1 x Xeon (1 threads) on 1 host (9 steps)",
        ),
    ],
)
def test_what_may_have_made_other_weights_is_named(after: Recorded, sentence: str) -> None:
    (said,) = differences(_recorded(), after)
    assert said.endswith(sentence)


def test_settings_that_were_changed_for_it_are_named_and_places_are_not() -> None:
    before, after = _recorded(), _recorded()
    first = {"training.seed": "0", "run_folder": "a", "tracking.uri": "x", "datasets.coco.name": "coco"}
    facts = [replace(before.facts, parameters=first), replace(after.facts, parameters={**first, "training.seed": "5"})]
    facts[1] = replace(facts[1], parameters={**facts[1].parameters, "run_folder": "b", "name": "pose-rerun"})
    assert list(differences(replace(before, facts=facts[0]), replace(after, facts=facts[1]))) == [
        "other settings: training.seed 0, then 5"
    ]


def test_what_can_never_come_again_is_named() -> None:
    before = _recorded(tags={RESUMED_CODE: "c" * 64}, hardware={"1 x NVIDIA L4 on 1 host": 9})
    assert list(differences(before, replace(before, tags={}))) == [
        "the first training went on from checkpoints of other code (cccccccccccc)",
        "some sums on GPUs are added up in another order every time",
    ]


@pytest.mark.parametrize("module", ["lineage/code/version.py", "lineage/code_version.py"])
def test_code_says_what_it_is_wherever_it_kept_that(module: str, tmp_path: Path) -> None:
    place = tmp_path / "posecore" / module
    place.parent.mkdir(parents=True)
    place.write_text("def source_digest():\n    return 'a' * 64\n")
    (tmp_path / "posecore" / "__init__.py").touch()
    environment = {"PYTHONPATH": str(tmp_path)}
    _check_code(tmp_path, environment, "a" * 64)
    with pytest.raises(LineageError, match=r"the version names, bbbbbbbbbbbb \(digest aaaaaaaaaaaa\)"):
        _check_code(tmp_path, environment, "b" * 64)
