from pathlib import Path

import pytest

from posecore.errors import LineageError
from posecore.lineage.code import version as code_version
from posecore.lineage.code.version import code_digest, git_sha, own_digest


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source tree: ``pipelines.job`` imports ``posecore.a.one``, which imports ``posecore.b``."""
    files = {
        "posecore/__init__.py": "",
        "posecore/a/__init__.py": "",
        "posecore/a/one.py": "import os\nfrom posecore.b import thing\n",
        "posecore/a/two.py": "",
        "posecore/b/__init__.py": "thing = 1\n",
        "posecore/b/tables/points.yaml": "x: 1\n",
        "posecore/b/page.html.j2": "<p></p>",
        "posecore/c.py": "",
        "pipelines/__init__.py": "",
        "pipelines/job.py": "from posecore.a import one\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code_version, "_ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("edited", "counts"),
    [
        ("pipelines/job.py", True),
        ("posecore/a/one.py", True),
        ("posecore/b/__init__.py", True),
        ("posecore/b/tables/points.yaml", True),
        ("posecore/b/page.html.j2", True),
        ("posecore/a/two.py", False),
        ("posecore/c.py", False),
    ],
)
def test_a_modules_code_is_what_it_imports(tree: Path, edited: str, counts: bool) -> None:
    before = code_digest(["pipelines.job"])
    (tree / edited).write_text("changed = 2\n")
    assert (code_digest(["pipelines.job"]) != before) is counts


def test_a_named_package_counts_whole(tree: Path) -> None:
    before = code_digest(["posecore.a"])
    (tree / "posecore/a/two.py").write_text("from posecore import c\n")
    between = code_digest(["posecore.a"])
    (tree / "posecore/c.py").write_text("x = 1\n")
    assert len({before, between, code_digest(["posecore.a"])}) == 3


def test_the_digest_does_not_depend_on_the_order_or_place(tree: Path) -> None:
    assert code_digest(["posecore.c", "posecore.a"]) == code_digest(["posecore.a", "posecore.c"])


def test_an_unknown_module_is_refused(tree: Path) -> None:
    with pytest.raises(LineageError, match=r"posecore\.nothing"):
        code_digest(["posecore.nothing"])


def test_the_library_itself_has_a_closure() -> None:
    assert code_digest(["posecore.lineage.jobs.steps"]) != code_digest(["posecore.lineage.store.tracking"])


def test_an_image_carries_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSECORE_GIT_SHA", "abc")
    git_sha.cache_clear()
    try:
        assert git_sha() == "abc"
    finally:
        git_sha.cache_clear()


def test_a_modules_own_code_is_its_text_alone(tree: Path) -> None:
    before = own_digest(["posecore.a.one", "posecore.c"])
    (tree / "posecore/b/__init__.py").write_text("thing = 2\n")
    assert own_digest(["posecore.c", "posecore.a.one"]) == before
    (tree / "posecore/a/one.py").write_text("import os\nfrom posecore.b import other\n")
    assert own_digest(["posecore.a.one", "posecore.c"]) != before
    for name in ("posecore.a", "posecore.d"):
        with pytest.raises(LineageError, match=f"'{name}' is no module"):
            own_digest([name])
