from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from posecore.storage import as_path
from posecore.videos import frames
from posecore.videos.address import FrameAddress, file_of, frame_address, parse_frame_address
from posecore.videos.frames import VideoError, open_video, video_facts
from tests.support.films import HEIGHT, WIDTH, number_shown, write_film

TIMES = [0, 40, 80, 200, 210, 500, 900, 901, 1000, *range(1100, 2000, 37)]
"""Milliseconds; frames come at no constant rate."""
PLENTY = 10**7


def by_number(*numbers):
    return [FrameAddress("", frame=number) for number in numbers]


def by_time(*times):
    return [FrameAddress("", time_s=Fraction(time)) for time in times]


def answers(path, wanted, max_pixels=PLENTY):
    """Of each place: number, time and what the picture shows, or why not."""
    with open_video(path, wanted, max_pixels) as (_, found):
        said = {
            place: one.reason
            if isinstance(one, VideoError)
            else (one.number, round(one.time_s * 1000), number_shown(one.pixels))
            for place, one in found
        }
    return [said[place] for place in range(len(wanted))]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("films") / "film.mp4", TIMES)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("b.webm", "libvpx-vp9"), ("c.MOV", "mpeg4")])
def test_every_frame_is_the_one_asked_for_in_any_order(tmp_path, film, name, codec):
    numbers = [*np.random.default_rng(0).permutation(len(TIMES)).tolist(), 5, 5]
    expected = [(number, TIMES[number], number) for number in numbers]
    for path in (film, write_film(tmp_path / name, TIMES, codec)):
        assert answers(path, by_number(*numbers)) == expected


def test_a_time_is_that_of_the_frame_on_the_screen(film):
    given = ["0", "0.0399", "0.04", "0.199999999", "0.2", "0.899", "0.9009", "0.901", "0.95", str(TIMES[-1] / 1000)]
    shown = [0, 0, 1, 2, 3, 5, 6, 7, 7, len(TIMES) - 1]
    assert answers(film, by_time(*given)) == [(number, TIMES[number], number) for number in shown]


def test_what_there_is_not_is_said_of_that_frame_alone(film):
    wanted = [*by_number(len(TIMES), 3), *by_time("5", "0.2")]
    assert answers(film, wanted) == ["no-such-frame", (3, 200, 3), "no-such-frame", (3, 200, 3)]


def test_a_video_says_how_long_it_is_and_how_many_frames_come_in_a_second(film):
    facts = video_facts(film, PLENTY)
    span = (TIMES[-1] - TIMES[0]) / 1000
    assert (facts.num_frames, facts.height, facts.width) == (len(TIMES), HEIGHT, WIDTH)
    assert facts.fps == pytest.approx((len(TIMES) - 1) / span)
    assert facts.duration_s == pytest.approx(span, abs=0.1)


def test_frames_are_turned_as_players_turn_them(tmp_path, film):
    turned = write_film(tmp_path / "turned.mp4", TIMES[:5], rotation=90)
    for path, turns in ((film, 0), (turned, 1)):
        with open_video(path, by_number(3), PLENTY) as (_, found):
            (_, frame), *_ = found
        assert frame.pixels.shape[:2] == ((HEIGHT, WIDTH) if turns == 0 else (WIDTH, HEIGHT))
        assert number_shown(np.rot90(frame.pixels, -turns)) == 3, "90° counter-clockwise"


def test_the_pixels_are_the_same_again(film):
    with open_video(film, by_number(7, 20), PLENTY) as (_, found):
        first = {place: frame.pixels for place, frame in found}
    with open_video(film, by_number(20), PLENTY) as (_, found):
        assert all(np.array_equal(frame.pixels, first[1]) for _, frame in found)


def refusal(path, wanted=(), max_pixels=PLENTY):
    with pytest.raises(VideoError) as caught, open_video(path, wanted, max_pixels) as (_, found):
        list(found)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith(".")
    return caught.value.reason


def test_what_is_no_video_is_refused(tmp_path, film):
    named = {
        "empty.mp4": b"",
        "text.mp4": b"not a video " * 100,
        "cut.mp4": film.read_bytes()[:-200],
        "list.mp4": b"#EXTM3U\n#EXTINF:1,\nfilm.mp4\n#EXT-X-ENDLIST\n",
        "other.mkv": film.read_bytes(),
    }
    for name, data in named.items():
        (tmp_path / name).write_bytes(data)
        assert refusal(tmp_path / name) == "not-a-video", name
    assert refusal(tmp_path / "absent.mp4") == "missing-video"
    (tmp_path / "folder.mp4").mkdir()
    assert refusal(tmp_path / "folder.mp4") == "unreadable-video"


def test_a_damaged_frame_is_no_picture_and_the_others_are(tmp_path):
    path = write_film(tmp_path / "film.mp4", TIMES)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[start : start + 25] = np.random.default_rng(0).bytes(25)
    path.write_bytes(data)
    found = answers(path, by_number(*range(len(TIMES))))
    whole = [one for one in found if isinstance(one, tuple)]
    assert found[0] == (0, 0, 0)
    assert 0 < len(whole) < len(TIMES)
    assert all(number == shown for number, _, shown in whole)


def test_larger_pictures_than_allowed_are_refused_before_they_are_decoded(film):
    assert refusal(film, by_number(0), max_pixels=WIDTH * HEIGHT - 1) == "too-many-pixels"
    assert answers(film, by_number(0), max_pixels=WIDTH * HEIGHT) == [(0, 0, 0)]


def test_what_takes_too_long_or_ends_the_process_is_refused(film, tmp_path, monkeypatch):
    for name, text, reason in (
        ("crashing.py", "import os\nos.abort()", "video-crashed"),
        ("greedy.py", "import sys\nsys.exit(3)", "video-crashed"),
        ("idle.py", "import time\ntime.sleep(60)", "video-too-slow"),
    ):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(frames, "_DECODER", tmp_path / name)
        monkeypatch.setattr(frames, "_PATIENCE_S", 0.3 if name == "idle.py" else 30.0)
        assert refusal(film, by_number(0)) == reason


def test_more_memory_than_allowed_is_a_refusal(film, tmp_path, monkeypatch):
    text = frames._DECODER.read_text().replace("_MEMORY_BYTES = 6 << 30", "_MEMORY_BYTES = 1 << 20")
    (tmp_path / "decoder.py").write_text(text)
    monkeypatch.setattr(frames, "_DECODER", tmp_path / "decoder.py")
    assert refusal(film, by_number(0)) in ("video-too-large", "video-crashed")


def test_a_video_in_a_store_is_read_from_a_copy(film, tmp_path):
    remote = as_path(f"memory://{tmp_path.name}/film.mp4")
    remote.write_bytes(film.read_bytes())
    assert answers(remote, by_number(4)) == [(4, 210, 4)]
    assert refusal(as_path(f"memory://{tmp_path.name}/absent.mp4")) == "missing-video"


@pytest.mark.parametrize(
    ("image", "address"),
    [
        ("a/b.mp4#frame=12", FrameAddress("a/b.mp4", frame=12)),
        ("b.MOV#t=1.5", FrameAddress("b.MOV", time_s=Fraction(3, 2))),
        ("b.mp4", None),
        ("b.mp4#frame=-1", None),
        ("b.mp4#t=1e3", None),
        ("picture#frame=1.jpg", None),
        ("picture.jpg#frame=1", None),
    ],
)
def test_addresses_of_frames_are_told_from_names_of_files(image, address):
    assert parse_frame_address(image) == address
    assert file_of(image) == (image if address is None else address.video)
    if address is not None:
        assert frame_address(address.video, address.frame, address.time_s) == image


def test_what_is_no_frame_has_no_address():
    assert frame_address("a.mp4", time_s=1 / 3) == "a.mp4#t=0.333333333"
    for given in ({}, {"frame": 1, "time_s": 1.0}, {"frame": -1}):
        with pytest.raises(ValueError, match="frame of a video"):
            frame_address("a.mp4", **given)
    with pytest.raises(ValueError, match="must end in"):
        frame_address("a.gif", frame=1)
    assert Path(frames._DECODER).is_file()
