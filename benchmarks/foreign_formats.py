"""What labelling tools keep of labels, as docs/datasets.md has it: from what they read in ``tests/support/foreign``.

Run after ``tests/support/foreign_files.py``, which gives labels with a hidden and a missing point, a track, a subject
and a predicted body to each tool's own library and writes down what comes back. Of VIA, which has no library, a file of
the published form is read by posecore alone:

    python benchmarks/foreign_formats.py          # prints the table
    python benchmarks/foreign_formats.py --write  # puts it into docs/datasets.md
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posecore.datasets.discovery import read_split
from posecore.datasets.recognise import plain_definition, recognise
from posecore.errors import DatasetError
from posecore.schema import Record

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "datasets.md"
FOREIGN = ROOT / "tests" / "support" / "foreign"
READ: dict[str, Any] = json.loads((FOREIGN / "read.json").read_text())
BEGIN, END = "<!-- by benchmarks/foreign_formats.py -->\n", "<!-- end -->\n"
HIDDEN, MISSING = "left_ear", "right_ear"
COLUMNS = ("written by → read by", "places", "hidden points", "missing points", "tracks", "predicted apart")


def verdicts(bodies: Sequence[dict[str, Any]], asked: Sequence[str]) -> list[str]:
    """Kept or lost, of what a tool reads in the first body of its own file (:data:`HIDDEN`, :data:`MISSING`)."""
    points = {name.replace(" ", "_"): point for name, point in bodies[0]["points"].items()}
    hidden = points.get(HIDDEN)
    found = {
        "places": _kept([*points["nose"][:2], *points["tail"][:2]], [11.5, 12.25, 17.125, 38]),
        "hidden points": "kept"
        if hidden is not None and not hidden[2]
        else "lost: seen"
        if hidden
        else "lost: missing",
        "missing points": "kept" if MISSING not in points else "lost: at (0, 0)",
        "tracks": "kept" if bodies[0].get("track") else "lost",
        "predicted apart": "kept" if any(body.get("predicted") for body in bodies) else "lost",
    }
    return [found[name] if name in asked else "–" for name in COLUMNS[1:]]


def _kept(place: Sequence[float], truth: Sequence[float]) -> str:
    off = max(abs(a - b) for a, b in zip(place, truth, strict=True))
    return "kept" if off < 1e-3 else "kept to 0.01 px" if off < 1e-2 else "lost"


def rows() -> list[list[str]]:
    """One for each way through a tool."""
    sleap = READ["sleap"]["labels.slp"]
    of_sleap = [*sleap["0/5"]["bodies"], *sleap["0/7"]["bodies"]]
    exported = [body for frame in READ["exports"]["sleap"].values() for body in frame["bodies"]]
    studio = next(iter(READ["label_studio"]["from_sleap.json"].values()))["bodies"]
    points = READ["exports"]["yolo"]["0.png"]["points"][0]
    names = ("nose", HIDDEN, MISSING, "tail")
    yolo = [{"points": {n: [x, y, f == 2] for n, (x, y, f) in zip(names, points, strict=True) if f}}]
    coco = READ["exports"]["datumaro of coco"]["0"][0]
    of_coco = [
        {"points": {n: [coco[2 * k], coco[2 * k + 1], coco[8 + k] == 2] for k, n in enumerate(names) if coco[8 + k]}}
    ]
    of_cvat = [READ["cvat"]["exports"][picture]["bodies"][0] for picture in ("0", "b_0")]
    refused = _refusal("cvat/default.xml")
    everything = COLUMNS[1:]
    labels = COLUMNS[1:4]
    return [
        ["sleap-io `.slp` → sleap-io, and posecore", *verdicts(of_sleap, everything)],
        ["posecore `.slp` → sleap-io", *verdicts(exported, everything)],
        ["sleap-io Label Studio → sleap-io, and posecore", *verdicts(studio, everything[:4])],
        ["pynwb, ndx-pose → pynwb, and posecore", *verdicts(READ["nwb"]["training.nwb"]["arena/5"]["bodies"], labels)],
        ["sleap-io NWB predictions → sleap-io, and posecore", *_of_tracker()],
        [
            "datumaro → datumaro, and posecore",
            *verdicts(READ["datumaro"]["annotations/default.json"]["0"]["bodies"], labels),
        ],
        ["posecore YOLO-pose → Ultralytics", *verdicts(yolo, labels)],
        ["posecore COCO → datumaro", *verdicts(of_coco, labels)],
        ["posecore CVAT → datumaro, each point a body of its own", *verdicts(of_cvat, (*labels, COLUMNS[5]))],
        ["datumaro CVAT → datumaro", *verdicts(READ["cvat"]["default.xml"]["0"]["bodies"], labels)],
        ["datumaro CVAT → posecore", refused, *["–"] * 4],
        [
            "DeepLabCut, by pandas → sleap-io, and posecore",
            *verdicts(READ["deeplabcut"]["0"]["bodies"], everything[:4]),
        ],
        [
            "Lightning Pose, by pandas → sleap-io, and posecore",
            *verdicts(READ["lightning_pose"]["0"]["bodies"], labels),
        ],
        ["VIA 2, as published → posecore", *verdicts(_of_via(), everything[:4])],
    ]


def _of_tracker() -> list[str]:
    bodies = READ["nwb_estimation"]["from_sleap.nwb"]["arena/0"]["bodies"]
    return verdicts(bodies, (*COLUMNS[1:4], COLUMNS[5]))


def _refusal(name: str) -> str:
    """What posecore does with a file whose points have no names."""
    try:
        recognise(FOREIGN / name)
    except DatasetError:
        return "refused: points without names"
    return "read"


def _of_via() -> list[dict[str, Any]]:
    found = recognise(FOREIGN / "via")
    (split,) = found.splits.values()
    (first, *_) = [item for item in read_split(plain_definition(found, split), "all", found.root)]
    assert isinstance(first, Record)
    return [
        {
            "track": body.track_id,
            "points": {
                name: [x, y, flag == 2]
                for name, (x, y, flag) in zip(found.names, body.keypoints.tolist(), strict=True)
                if flag
            },
        }
        for body in first.instances
    ]


def table() -> str:
    """As Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Prints the table, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/datasets.md")
    options = parser.parse_args()
    text = table()
    if not options.write:
        print(text)
        return
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{text}{END}{after}")


if __name__ == "__main__":
    main()
