from pathlib import Path

import pytest

from posecore.errors import ConfigError
from posecore.source_code import read_source

TEXT = "WITHDRAWN = {3, 7}\n\n\ndef keep(infant):\n    return infant not in WITHDRAWN\n"


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "rules.py"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (TEXT.replace("{3, 7}", "{3, 7, 9}"), True),
        (TEXT.replace("not in", "in"), True),
        ("# who is out\n" + TEXT.replace("\n\n\n", "\n\n\n\n\n"), False),
        (TEXT.replace("{3, 7}", "{\n    3,\n    7,\n}  # by letter"), False),
    ],
)
def test_what_a_file_says_counts_and_not_how_it_looks(module: Path, text: str, counts: bool) -> None:
    before = read_source(module, "").digest
    module.write_text(text)
    assert (read_source(module, "").digest != before) is counts


def test_imports_are_absolute_wherever_they_stand(module: Path) -> None:
    module.write_text(
        "import numpy.linalg\nfrom . import lists\nfrom .lists import who\nfrom ..shared import x\n"
        "def f():\n    from json import loads\n"
    )
    assert read_source(module, "lab.infants").imports == {
        "numpy.linalg", "lab.infants", "lab.infants.lists", "lab.infants.lists.who", "lab.shared", "lab.shared.x",
        "json", "json.loads",
    }  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        "class A:\n    def f(self):\n        async def g():\n            HERE",
        "if x:\n    pass\nelif y:\n    HERE",
        "try:\n    HERE\nfinally:\n    pass",
        "try:\n    pass\nexcept* OSError:\n    HERE",
        "try:\n    pass\nexcept OSError:\n    pass\nelse:\n    HERE",
        "try:\n    pass\nfinally:\n    HERE",
        "for _ in ():\n    HERE",
        "while True:\n    pass\nelse:\n    HERE",
        "with x as y:\n    HERE",
        "match x:\n    case 1:\n        HERE",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    HERE",
    ],
)
def test_an_import_is_found_in_any_statement(module: Path, statement: str) -> None:
    module.write_text(statement.replace("HERE", "import json"))
    assert read_source(module, "").imports - {"typing", "typing.TYPE_CHECKING"} == {"json"}


def test_declared_files_lie_beside_the_module(module: Path) -> None:
    module.write_text('DECLARED_FILES: tuple[str, ...] = ("withdrawn.csv", "more/list.txt")\n')
    assert read_source(module, "").declared == (module.parent / "withdrawn.csv", module.parent / "more/list.txt")


@pytest.mark.parametrize("text", ['DECLARED_FILES = tuple(glob("*"))', "DECLARED_FILES = (1,)", "def f(:"])
def test_what_cannot_be_told_without_running_it_is_refused(module: Path, text: str) -> None:
    module.write_text(text)
    with pytest.raises(ConfigError, match=r"rules\.py"):
        read_source(module, "")
