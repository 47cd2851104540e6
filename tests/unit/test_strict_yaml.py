"""What YAML is refused that PyYAML would take, and that everything else means what PyYAML says."""

import pytest
import yaml

from posecore.strict_yaml import MAX_DEPTH, MAX_NODES, parse_yaml


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [x, {c: 5e-4}, null, 'a']\n",
        "base: &base {k: 1, l: 2}\nother: {<<: *base, k: 3}\nagain: [*base, *base]\n",
        "1: a\n'1': b\n",
        nested(MAX_DEPTH),
        "",
    ],
)
def test_plain_documents_mean_what_pyyaml_says(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' is there twice, first in line 1"),
        ("b:\n  a: {x: 1}\n  'a': {}\n", "the key 'a' is there twice, first in line 2"),
        ("[{a: 1, a: 1}]", "the key 'a' is there twice"),
        (nested(MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH}"),
        ("- " * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH}"),
        ("a: &a [1, *a]", "the alias 'a' stands within what it names"),
        ("!!python/name:os.system a", "could not determine a constructor"),
        ("a: 2026-02-31", "day is out of range"),
    ],
)
def test_what_hides_a_value_or_has_no_end_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        parse_yaml(text)


def test_aliases_are_counted_as_what_they_unfold_to() -> None:
    rows = 1000
    per_row = MAX_NODES // rows
    page = f"row: &row [{', '.join('0' * (per_row - 2))}]\n"
    fits, too_much = (page + "all: [" + "*row, " * count + "]" for count in (rows - 2, rows + 1))
    assert len(parse_yaml(fits)["all"]) == rows - 2
    with pytest.raises(yaml.YAMLError, match=f"more than {MAX_NODES} values, its aliases unfolded"):
        parse_yaml(too_much)
