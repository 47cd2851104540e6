"""The tour through the code names files that exist: a reading path that has drifted is worse than none."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}


def named_paths(text: str) -> set[str]:
    """Paths in code spans and links that begin at the repository's top, placeholders such as ``<name>`` excepted."""
    spans = re.findall(r"`([^`\s]+)`", text) + re.findall(r"\]\(([^)#\s]+)", text)
    paths = {span.removeprefix("./").rstrip("/") for span in spans}
    return {path for path in paths if path.split("/")[0] in TOP and not re.search(r"[<>*{}…]", path)}


def test_paths_are_found_in_spans_and_links() -> None:
    text = "`posecore/schema.py` [guide](docs/x.md) `datasets/<name>/` `python a.py` `posecore/` https://x/y `no/where`"
    assert named_paths(text) == {"posecore/schema.py", "docs/x.md", "posecore"}


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_a_page_names_exists(document: Path) -> None:
    missing = sorted(path for path in named_paths(document.read_text(encoding="utf-8")) if not (ROOT / path).exists())
    assert missing == []


def test_the_reading_path_leads_through_the_main_job() -> None:
    section = (
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Reading path")[1].split("\n## ")[0]
    )
    steps = re.findall(r"^\d+\. `([^`]+)`", section, re.MULTILINE)
    assert steps[:3] == ["README.md", "pipelines/multidataset_train.py", "posecore/schema.py"]
    assert len(steps) >= 8
