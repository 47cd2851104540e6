import os
import pickle
from pathlib import Path

import pytest
from pydantic import Field

from posecore.config import MAX_YAML_BYTES, Config, load_config, parse_config, read_yaml
from posecore.errors import ConfigError


class Optimizer(Config):
    lr: float = Field(default=1e-3, gt=0)


class Run(Config):
    name: str
    optimizer: Optimizer = Optimizer()
    parts: tuple[Optimizer, ...] = ()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("name: a\nparts: [{lr: 1}, {lr: 2}]\n")
    return path


def test_overrides_reach_fields_lists_and_sections_the_file_leaves_out(file: Path) -> None:
    run = load_config(file, Run, ["optimizer.lr=3e-4", "parts.1.lr=5", "name=b=c"])
    assert run.optimizer.lr == 3e-4
    assert [part.lr for part in run.parts] == [1, 5]
    assert run.name == "b=c"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name", "--set name: expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("name.x=3", "name is not a mapping or a list entry"),
        ("parts.2.lr=3", "parts.2 is not a mapping or a list entry"),
        ("parts.x=3", "the list has no entry 'x'"),
        ("parts=[1", "--set parts=.1: the value is not YAML"),
        ("optimiser.lr=3", "optimiser: Extra inputs are not permitted"),
        ("optimizer.lr=fast", "optimizer.lr: Input should be a valid number"),
        ("optimizer.lr=.nan", "optimizer.lr: Input should be a finite number"),
        ("optimizer.lr=nan", "optimizer.lr: Input should be a finite number"),
        ("optimizer.lr=.inf", "optimizer.lr: Input should be a finite number"),
    ],
)
def test_a_wrong_override_is_named(file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(file, Run, [override])


def test_a_wrong_field_of_a_file_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# a run\nname: a\n\nparts:\n  - {lr: 1}\n  - lr: fast\noptimizer:\n  lr: 1\n  size: 3\n")
    with pytest.raises(ConfigError) as found:
        load_config(path, Run)
    assert "parts.1.lr: Input should be a valid number, unable to parse string as a number (line 6, column 5)" in str(
        found.value
    )
    assert "optimizer.size: Extra inputs are not permitted (line 9, column 3)" in str(found.value)
    path.write_text("\nparts: []\n")
    with pytest.raises(ConfigError, match=r"name: Field required \(line 2, column 1\)$"):
        load_config(path, Run)
    path.write_text("name: a\noptimizer: {lr: 1}\n")
    with pytest.raises(ConfigError, match=r"optimizer.lr: Input should be .*number$"):  # not said by the file
        load_config(path, Run, ["optimizer.lr=fast"])


def test_every_wrong_field_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^here: name: Field required; parts.0.lr: Input .*; size: Extra inputs"):
        parse_config({"parts": [{"lr": "x"}], "size": 3}, Run, origin="here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not readable as YAML"),
        (b"\xff\xfe\x00", "not readable as YAML"),
        (b"- a\n- b\n", "the top level must be a mapping of settings, not list"),
        (b"", "not NoneType"),
        (b"name: !!python/object/apply:os.system ['false']", "not readable as YAML"),
        (b"name: 2026-02-31", "not readable as YAML .day is out of range"),
    ],
)
def test_a_file_that_is_no_run_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_plain_file_of_some_kilobytes_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "adapt_demo.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such file; .* Did you mean .*adapt_demo\.yaml\?"):
        read_yaml(tmp_path / "adapt_dmo.yaml")
    with pytest.raises(ConfigError, match="it is a folder"):
        read_yaml(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    with pytest.raises(ConfigError, match="it is a pipe, not a file"):
        read_yaml(tmp_path / "pipe")
    with (tmp_path / "giant").open("wb") as giant:
        giant.truncate(MAX_YAML_BYTES + 1)
    with pytest.raises(ConfigError, match=r"giant: cannot be read .it has more than the \d+ bytes"):
        read_yaml(tmp_path / "giant")


def test_a_section_that_is_there_twice_is_refused_and_not_half_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: a\noptimizer: {lr: 1}\nparts: []\noptimizer: {}\n")
    with pytest.raises(ConfigError, match=r"the key 'optimizer' is there twice, first in line 2.* line 4"):
        load_config(path, Run)
    path.write_text("name: a\n")
    with pytest.raises(ConfigError, match=r"--set optimizer.*'lr' is there twice"):
        load_config(path, Run, ["optimizer={lr: 1, lr: 2}"])


def test_the_fingerprint_knows_values_and_not_how_they_were_given(file: Path) -> None:
    run = load_config(file, Run)
    spelled_out = Run(name="a", optimizer=Optimizer(lr=0.001), parts=(Optimizer(lr=1), Optimizer(lr=2)))
    assert run.fingerprint() == spelled_out.fingerprint() == pickle.loads(pickle.dumps(run)).fingerprint()
    assert run.fingerprint() != load_config(file, Run, ["optimizer.lr=2e-3"]).fingerprint()
