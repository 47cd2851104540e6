from pathlib import Path

import numpy as np
import pytest

from posecore import cli
from posecore.errors import DatasetError
from posecore.labels.next_pictures import next_pictures
from posecore.schema import Instance, Record
from tests.support.two_mice import EVE, SKELETON, picture
from tests.unit.labels.test_export import predicted


def seen(name: str, score: float | None, shift: float = 0.0, frame: int | None = None, seed: int = 0) -> Record:
    """A picture in which a model is so sure of a pose."""
    points = np.random.default_rng(seed).uniform(0, 1, (4, 3)).astype(np.float32) * 100
    points[:, 0] += shift
    points[:, 2] = 2
    record = Record(
        dataset="d", split="s", source_id=name, image=f"{name}.png", width=200, height=200,
        video_id=None if frame is None else "film", frame_index=frame,
    )  # fmt: skip
    if score is not None:
        record.instances.append(
            Instance(
                id=name,
                bbox_xywh=(0, 0, 100, 100),
                keypoints=points,
                area=1e4,
                area_rule="box",
                extras={"scores": dict.fromkeys("abcd", score)},
            )
        )
    return record


def test_what_a_model_is_least_sure_of_comes_first() -> None:
    records = [seen(str(number), score, seed=number) for number, score in enumerate((0.9, 0.2, 0.6))]
    assert [choice.row for choice in next_pictures(records, 9)] == [1, 2, 0]
    assert next_pictures(records, 1)[0].doubt == pytest.approx(0.8)


def test_the_less_sure_half_of_the_points_counts() -> None:
    half = seen("half", 0.9)
    half.instances[0].extras["scores"] = {"a": 0.1, "b": 0.1, "c": 1.0, "d": 1.0}
    assert next_pictures([half], 1)[0].doubt == pytest.approx(0.9)


def test_radii_count_as_shares_of_the_box_where_they_are_asked_for() -> None:
    records = [seen(str(number), 0.9 - number / 10, seed=number) for number in range(3)]
    for record, radii in zip(records, ([5, 5, 30, 50], [5, 5, 5, 9], [1, 1, 80, float("inf")]), strict=True):
        record.instances[0].extras["radii"] = dict(zip("abcd", radii, strict=True))
    found = next_pictures(records, 3, by="radius")
    assert [choice.row for choice in found] == [2, 0, 1]
    assert [choice.doubt for choice in found] == pytest.approx([0.9, 0.4, 0.07])
    assert [choice.row for choice in next_pictures(records, 3)] == [2, 1, 0], "scores, unless asked"
    del records[1].instances[0].extras["radii"]
    with pytest.raises(DatasetError, match="nothing says how far off the points are; calibrate the model"):
        next_pictures(records, 3, by="radius")


def test_no_two_alike_are_taken() -> None:
    records = [seen("a", 0.1), seen("again", 0.11), seen("other", 0.5, seed=5)]
    assert [choice.row for choice in next_pictures(records, 2)] == [0, 2]
    nobody = [seen("a", None), seen("b", None), seen("c", 0.9)]
    assert [choice.row for choice in next_pictures(nobody, 2)] == [0, 2]


def test_frames_of_one_film_lie_apart() -> None:
    frames = [seen(str(number), 0.1 + 0.01 * number, frame=number, seed=number) for number in range(100)]
    first, second = (choice.row for choice in next_pictures(frames, 2))
    assert (first, second) == (0, 45)  # where (0.9 - 0.01 f) f / 60 is largest


def test_there_must_be_pictures() -> None:
    with pytest.raises(DatasetError, match="no picture"):
        next_pictures([], 3)


def test_they_become_a_page_and_a_file_to_correct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predicted(tmp_path / "predicted")
    (tmp_path / "0.png").write_bytes(picture())
    arguments = ["labels", "next", f"{tmp_path / 'predicted'}", f"--pictures={tmp_path}", f"--out={tmp_path / 'out'}"]
    assert cli.main([*arguments, "--format=cvat"]) == 0
    assert "1 picture of 1" in capsys.readouterr().out
    assert 'source="auto"' in (tmp_path / "out" / "next.xml").read_text()
    assert (tmp_path / "out" / "page" / "index.html").is_file()
    assert len(EVE) == SKELETON.num_keypoints
