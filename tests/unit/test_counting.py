import pytest

from posecore.counting import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "body", "1 body"),
        (2, "body", "2 bodies"),
        (0, "box", "0 boxes"),
        (3, "day", "3 days"),
        (1, "shard", "1 shard"),
    ],
)
def test_a_noun_follows_its_number(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said
