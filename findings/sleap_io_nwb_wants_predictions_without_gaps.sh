#!/usr/bin/env bash
# sleap-io 0.9.5: save_nwb(nwb_format="predictions") fails with an IndexError where a predicted frame's number is not its
# place in the list, such as every second frame, or a film of which the first frames have nobody. Where it succeeds it
# writes a rate of 1 Hz of its own, and of a point that is missing in a frame one row less than of the others, so tables
# of one container must be joined by time. One guesses that what trackers leave, gaps, can be written.
#
# Seen: frames [0, 1, 2] are written and [0, 2] and [5, 7] are not; 3 and 2 rows of two points, at 1 Hz. Fails if that
# changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sleap-io==0.9.5' 'pynwb==4.2.0' 'ndx-pose==0.4.0' 'opencv-python-headless<5' h5py
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import cv2
import h5py
import numpy as np
import sleap_io as sio

writer = cv2.VideoWriter("film.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 10, (80, 60))
for number in range(12):
    writer.write(np.full((60, 80, 3), number * 20, np.uint8))
writer.release()
skeleton = sio.Skeleton(nodes=["a", "b"], edges=[("a", "b")], name="two")
video = sio.Video.from_filename("film.mp4")


def written(numbers: list[int], missing: int = -1) -> str:
    frames = []
    for number in numbers:
        points = np.array([[number, 1.0], [np.nan if number == missing else number, 2.0]])
        body = sio.PredictedInstance.from_numpy(points, skeleton=skeleton, point_scores=np.full(2, 0.5), score=0.5)
        frames.append(sio.LabeledFrame(video=video, frame_idx=number, instances=[body]))
    try:
        sio.save_nwb(sio.Labels(frames, skeletons=[skeleton], videos=[video]), "x.nwb", nwb_format="predictions")
    except IndexError as error:
        return f"IndexError: {error}"
    with h5py.File("x.nwb") as file:
        container = file["processing/SLEAP_VIDEO_000_film/track=untracked"]
        rows = [len(container[f"{name}/data"]) for name in "ab"]
        return f"written, rows {rows}, rate {container['a/starting_time'].attrs['rate']:g} Hz"


found = {
    "0, 1, 2": written([0, 1, 2]),
    "0, 1, 2, one point missing in 1": written([0, 1, 2], missing=1),
    "0, 2": written([0, 2]),
    "5, 7": written([5, 7]),
}
for name, what in found.items():
    print(f"{name}: {what}")
expected = [
    "written, rows [3, 3], rate 1 Hz",
    "written, rows [3, 2], rate 1 Hz",
    "IndexError: index 2 is out of bounds for axis 0 with size 2",
    "IndexError: index 5 is out of bounds for axis 0 with size 2",
]
sys.exit(list(found.values()) != expected)
PYTHON
