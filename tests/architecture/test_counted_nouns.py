"""A number before a noun is written by ``counted``, so that no sentence says "1 images"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from posecore.counting import counted

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for folder in ("posecore", "pipelines", "datasets") for path in (ROOT / folder).rglob("*.py")]
NOUNS = (
    "GPUs annotations bodies bones boxes columns crops detections entries epochs files frames heads images instances "
    "joints keypoints labels models nodes people persons pictures pieces points predictions processes ranks records "
    "rows samples steps subjects tensors trials videos workers"
)
_NOUN = rf"(?:[a-z]+ed |[a-z]+ing )?(?:{'|'.join(NOUNS.split())})\b(?!\[)"
PLURAL = re.compile(f" {_NOUN}")
OF_A_KIND = re.compile(r"\} \{[^{}]+\}s\b")
PERHAPS = re.compile(rf"""\}}(?:"\s*f?")? (?:"\s*f?")?{_NOUN}""")
"""In the source, before it is parsed."""


def bare_numbers(source: str) -> Iterator[tuple[int, str]]:
    """Where an f-string writes what may be 1 before a plural; no constants, texts or rounded numbers."""
    for text in ast.walk(ast.parse(source)) if PERHAPS.search(source) else ():
        if not isinstance(text, ast.JoinedStr):
            continue
        for value, after in zip(text.values, text.values[1:], strict=False):
            if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                continue
            written = ast.unparse(value.value)
            of_number = value.format_spec is None or ast.unparse(value.format_spec) in ("f','", "f'd'")
            is_text = written in {"where", "path", "crop", "depth"} or written.startswith(
                ("signed_points(", "', '.join(")
            )
            if (
                PLURAL.match(str(after.value))
                and value.conversion == -1
                and of_number
                and not (is_text or written.rpartition(".")[2].isupper())
            ):
                yield value.lineno, f"{{{written}}}{after.value}"


@pytest.mark.parametrize(
    ("sentence", "is_bare"),
    [
        ('f"{len(images)} images"', True),
        ('f"{count:,} labelled bodies of {name}"', True),
        ("f\"{counted(len(images), 'image')}\"", False),
        ('f"at most {MAX_FILES} files"', False),
        ('f"{rate:.1f} crops"', False),
        ('f"{where} annotations[{index}]"', False),
    ],
)
def test_bare_numbers_are_found(sentence: str, is_bare: bool) -> None:
    assert bool(list(bare_numbers(sentence))) is is_bare


def test_numbers_of_things_are_counted() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in SOURCES
        for line, text in bare_numbers(path.read_text())
        if "posecore/pipelines" not in str(path)
    ]
    assert not bare, "write posecore.counting.counted(number, noun):\n" + "\n".join(bare)


def test_nouns_that_vary_are_counted_as_well() -> None:
    bare = [
        f"{path.relative_to(ROOT)}: {found}" for path in SOURCES for found in OF_A_KIND.findall(path.read_text("utf-8"))
    ]
    assert not bare, bare


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(1, "body", "1 body"), (0, "box", "0 boxes"), (2000, "picture", "2,000 pictures"), (2, "series", "2 series")],
)
def test_counted(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said
