import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.errors import PredictionError
from posecore.prediction.photos import read_picture
from posecore.prediction.sources import Source, Video, find_sources, read_photo
from posecore.schema import Record
from posecore.stages.protocol import Picture
from posecore.stages.ranges import ScaleRange
from tests.support.clips import write_clip


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(sources: list[Source]) -> list[str]:
    return [source.name for source in sources]


def test_a_folder_is_searched_through_and_sorted(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b.jpg",
        "a.PNG",
        "sub/deep/a.jpeg",
        "sub/clip.mp4",
        "notes.txt",
        ".hidden.jpg",
        ".git/x.jpg",
        "c.webp",
    )
    found = find_sources([str(tmp_path)])
    assert names(found) == ["a.PNG", "b.jpg", "c.webp", "sub/clip.mp4", "sub/deep/a.jpeg"]
    assert [source.kind for source in found] == ["photo", "photo", "photo", "video", "photo"]


def test_files_called_alike_have_names_that_differ(tmp_path: Path) -> None:
    touch(tmp_path, "one/x.jpg", "two/x.jpg", "two/sub/x.jpg")
    inputs = [
        str(tmp_path / "one"),
        str(tmp_path / "two" / "x.jpg"),
        str(tmp_path / "two" / "sub" / ".." / "*" / "x.jpg"),
    ]
    assert names(find_sources(inputs)) == ["one/x.jpg", "two/sub/x.jpg", "two/x.jpg"]
    assert names(find_sources([str(tmp_path / "one")])) == ["x.jpg"]
    assert names(find_sources([str(tmp_path / "one" / "x.jpg")] * 2)) == ["x.jpg"]


def test_names_begin_at_the_folder_given_whatever_is_in_it(tmp_path: Path) -> None:
    touch(tmp_path, "set/val/x.jpg", "set/val/y.jpg")
    assert names(find_sources([str(tmp_path / "set")])) == ["val/x.jpg", "val/y.jpg"]
    assert names(find_sources([str(tmp_path / "set" / "*" / "y.jpg")])) == ["val/y.jpg"]


def test_patterns_and_relative_inputs_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "a/b/2.jpg", "c.jpg")
    monkeypatch.chdir(tmp_path / "a")
    assert names(find_sources(["**/*.jpg"])) == ["1.jpg", "b/2.jpg"]
    assert names(find_sources(["../c.jpg", "b"])) == ["a/b/2.jpg", "c.jpg"]
    assert names(find_sources(["../a/*/2.jpg"])) == ["b/2.jpg"]
    touch(tmp_path, "[2024]/p/x.jpg")
    monkeypatch.chdir(tmp_path / "[2024]" / "p")
    assert names(find_sources(["*.jpg"])) == ["x.jpg"], "brackets above a pattern are none of it"
    with pytest.raises(PredictionError, match="there is no photo or video; name at least one"):
        find_sources([])


def test_results_are_not_taken_for_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out/drawn/a.jpg")
    assert names(find_sources([str(tmp_path)], out=tmp_path / "out")) == ["a.jpg"]
    with pytest.raises(PredictionError, match="there is no photo or video"):
        find_sources([str(tmp_path / "out" / "drawn" / "a.jpg")], out=tmp_path / "out")


def test_names_cannot_break_a_terminal_or_a_json_file(tmp_path: Path) -> None:
    hostile = ["new\nline.jpg", "\x1b[31mred.jpg", "back\\slash.jpg", os.fsdecode(b"\xff.jpg"), "..jpg.jpg", "-rf.jpg"]
    touch(tmp_path, *hostile)
    found = names(find_sources([str(tmp_path)]))
    assert sorted(found) == sorted(
        ["new\\nline.jpg", "\\x1b[31mred.jpg", "back\\\\slash.jpg", "\\udcff.jpg", "-rf.jpg"]
    ), "a name that begins with a dot is hidden"
    assert all(name.isprintable() for name in found)


@pytest.mark.parametrize("given", ["absent", "empty", "none*.jpg"])
def test_an_input_with_nothing_in_it_is_named(given: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PredictionError, match="there is no photo or video"):
        find_sources([str(tmp_path / given)])


def test_a_photo_is_read_as_stored(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    (source,) = find_sources([str(tmp_path)])
    frame = read_photo(source)
    np.testing.assert_array_equal(frame.image, pixels[:, :, ::-1])
    assert (str(frame), frame.index) == ("a.png", None)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_photo_of_16_bits_is_refused_or_scaled_as_the_stage_does(channels: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (20, 30, channels), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    (source,) = find_sources([str(tmp_path)])
    with pytest.raises(PredictionError, match=r"a\.png: it has 16 bits per value, .*--scale-range LOW:HIGH"):
        read_photo(source)
    data = (tmp_path / "a.png").read_bytes()
    record = Record(dataset="d", split="s", source_id="1", image="a.png", width=30, height=20)
    stored = ScaleRange(low=100, high=4000)(Picture(data=data, record=record))
    assert isinstance(stored, Picture)
    frame = read_photo(source, (100, 4000))
    np.testing.assert_array_equal(frame.image, read_picture(stored.data, "a"))
    (tmp_path / "a.png").write_bytes(data[:60] + bytes(40) + data[100:])
    with pytest.raises(PredictionError, match="cannot be decoded"):
        read_photo(source, (100, 4000))


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "MJPG"), ("clip.mp4", "mp4v")])
def test_a_video_is_read_frame_by_frame_with_its_times(name: str, codec: str, tmp_path: Path) -> None:
    levels = [30 * index for index in range(7)]
    clip = [np.full((48, 64, 3), level, np.uint8) for level in levels]
    (source,) = find_sources([str(write_clip(tmp_path / name, clip, frames_per_second=12.5, codec=codec))])
    video = Video(source)
    assert (video.num_frames, video.frames_per_second) == (7, 12.5)
    frames = list(video)
    assert [frame.index for frame in frames] == list(range(7))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(7) / 12.5, atol=1e-3)
    np.testing.assert_allclose([frame.image.mean() for frame in frames], levels, atol=4)
    assert str(frames[3]) == f"{name} frame 3"


def test_frames_are_decoded_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "clip.avi", [np.zeros((48, 64, 3), np.uint8)] * 30)
    (source,) = find_sources([str(tmp_path)])
    video = Video(source)
    decoded = []

    class Counting:
        def __init__(self, *arguments: object) -> None:
            self._capture = real(*arguments)

        def read(self):
            decoded.append(1)
            return self._capture.read()

        def __getattr__(self, name: str):
            return getattr(self._capture, name)

    real = cv2.VideoCapture
    monkeypatch.setattr("cv2.VideoCapture", Counting)
    frames = iter(video)
    next(frames), next(frames)
    assert len(decoded) == 2


@pytest.mark.parametrize("content", [b"", b"no video at all", b"cut"])
def test_a_video_without_frames_is_refused(content: bytes, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [np.zeros((48, 64, 3), np.uint8)] * 5, codec="mp4v")
    path.write_bytes(path.read_bytes()[:200] if content == b"cut" else content)
    (source,) = find_sources([str(path)])
    with pytest.raises(PredictionError, match=r"clip.mp4: the video has no frame that can be decoded"):
        Video(source)
