from collections.abc import Callable
from pathlib import Path

import pytest

from posecore.formats import json_lists, matfile
from posecore.formats.reader import Reader, Source
from posecore.schema import AreaRule, Json, Record, Reject
from posecore.skeletons.skeleton import Keypoint, Skeleton


@pytest.fixture(params=["at once", "an entry at a time"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every JSON file and struct array is parsed at once, and then read an entry at a time."""
    if request.param != "at once":
        monkeypatch.setattr(matfile, "MADE_AT_ONCE", 0)
        monkeypatch.setattr(json_lists, "STREAMED_FROM_BYTES", 0)


def plain_skeleton(*names: str) -> Skeleton:
    return Skeleton(name="test", keypoints=tuple(Keypoint(name=name, union=name) for name in names))


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Source]:
    """A source below ``tmp_path`` with a skeleton of K points (``keypoints=K`` or their names)."""

    def make(
        annotations: str,
        images: str = "images",
        keypoints: int | tuple[str, ...] = 2,
        root: Path | None = None,
        area_rule: AreaRule = "box",
        **options: Json,
    ) -> Source:
        names = tuple(f"p{i}" for i in range(keypoints)) if isinstance(keypoints, int) else keypoints
        return Source(
            dataset="tiny",
            split="train",
            root=tmp_path if root is None else root,
            annotations=annotations,
            images=images,
            skeleton=plain_skeleton(*names),
            area_rule=area_rule,
            license="test-licence",
            options=options,
        )

    return make


@pytest.fixture
def read() -> Callable[[Reader, Source], tuple[list[Record], list[Reject]]]:
    """Reads a source completely and sorts its records from its rejects."""

    def run(reader: Reader, source: Source) -> tuple[list[Record], list[Reject]]:
        items = list(reader.read(source))
        return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, Reject)]

    return run
