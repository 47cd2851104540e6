"""The page of refusals names every reason there is, and no other."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REASON = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+|crowd")
JUDGES = [
    *(
        ROOT / "posecore" / "ingest" / f"{name}.py"
        for name in ("duplicates", "fetch", "plan", "reach", "read", "source_image", "staging", "usable")
    ),
    *(ROOT / "posecore" / "stages").glob("*.py"),
    *(ROOT / "posecore" / "videos").glob("*.py"),
]


def reasons_of_readers() -> set[str]:
    """First arguments of every ``Refusal``."""
    found = set()
    for path in [*(ROOT / "posecore" / "formats").glob("*.py"), *(ROOT / "datasets").glob("*/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: a reason is a plain text"
                found.add(node.args[0].value)
    return found


def reasons_of_ingestion() -> set[str]:
    """Texts that look like a reason in the modules that give any, but for the names of threads."""
    found = set()
    for path in JUDGES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and REASON.fullmatch(node.value):
                found.add(node.value)
    return {reason for reason in found if not reason.startswith("ingest-")}


def test_every_reason_is_on_the_page_and_the_page_names_no_other() -> None:
    page = (ROOT / "docs" / "refusals.md").read_text()
    named = {word for word in re.findall(r"`([^`]+)`", page) if REASON.fullmatch(word)}
    assert named == reasons_of_readers() | reasons_of_ingestion()
