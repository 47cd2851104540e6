"""Writes ``tests/support/foreign``: small files by the real tools, and what the tools themselves read in them.

The tools need other versions of our own dependencies, and half a gigabyte, so tests read what was written once:

    python -m venv --system-site-packages /tmp/tools   # or one that sees posecore's packages
    /tmp/tools/bin/pip install sleap-io==0.9.5 datumaro==1.13.12 pynwb==4.2.0 ndx-pose==0.4.0 label-studio-sdk
    /tmp/tools/bin/pip install --no-deps ultralytics==8.4.190 torchvision mmengine==0.10.7 addict termcolor yapf
    /tmp/tools/bin/python tests/support/foreign_files.py            # all, or the parts named behind it

``read.json`` maps file → picture or frame → bodies in the tool's order: points by name as x, y and whether the tool
calls it visible; those without a place are left out.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent / "foreign"
NAMES = ("nose", "left_ear", "right_ear", "tail")
LINKS = (("nose", "left_ear"), ("nose", "right_ear"), ("nose", "tail"))
NAN = float("nan")
BOB = [[11.5, 12.25], [23.0, 14.5], [NAN, NAN], [17.125, 38.0]]
EVE = [[41.0, 12.0], [53.0, 14.0], [45.0, 16.0], [47.75, 38.5]]
DRAWN = [[21.0, 22.0], [33.0, 24.0], [25.0, 26.0], [27.0, 48.0]]


def pictures(folder: Path, count: int = 3) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        canvas = np.full((60, 80, 3), (200, 40 + 30 * number, 10), np.uint8)
        cv2.circle(canvas, (20 + 10 * number, 30), 9, (20, 20, 230), -1)
        cv2.imwrite(str(folder / f"{number}.png"), canvas)
    return [str(folder / f"{number}.png") for number in range(count)]


def film(path: Path) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (80, 60))
    for number in range(12):
        writer.write(np.full((60, 80, 3), number * 20, np.uint8))
    writer.release()
    return str(path)


def sleap() -> dict[str, Any]:
    import sleap_io as sio

    folder = ROOT / "sleap"
    pictures(folder / "stills")
    os.chdir(folder)  # so that no file names the machine it was written on
    skeleton = sio.Skeleton(
        nodes=list(NAMES), edges=list(LINKS), symmetries=[("left_ear", "right_ear")], name="lab_mouse"
    )
    moving = sio.Video.from_filename(film(Path("arena.mp4")))
    shown = sio.Video.from_filename([f"stills/{number}.png" for number in range(3)])
    tracks = [sio.Track("bob"), sio.Track("eve")]

    def body(points: Any, track: Any = None) -> Any:
        return sio.Instance.from_numpy(np.array(points), skeleton=skeleton, track=track)

    bob, eve = body(BOB, tracks[0]), body(EVE, tracks[1])
    bob.points["visible"][1] = False
    drawn = sio.PredictedInstance.from_numpy(
        np.array(DRAWN), skeleton=skeleton, point_scores=np.array([0.1, 0.2, 0.3, 0.4]), score=0.9, track=tracks[1]
    )
    corrected = body([[21.0, 22.0], [30.0, 20.0], [25.0, 26.0], [27.0, 48.0]])
    corrected.from_predicted = drawn
    corrected.points["complete"][2] = True
    frames = [
        sio.LabeledFrame(video=moving, frame_idx=5, instances=[bob, eve]),
        sio.LabeledFrame(video=moving, frame_idx=7, instances=[drawn]),
        sio.LabeledFrame(video=moving, frame_idx=9, instances=[drawn_copy(sio, drawn), corrected]),
        sio.LabeledFrame(video=shown, frame_idx=1, instances=[body(EVE)]),
    ]
    frames[2].instances[1].from_predicted = frames[2].instances[0]
    labels = sio.Labels(frames, tracks=tracks, skeletons=[skeleton], videos=[moving, shown])
    labels.save("packed.pkg.slp", embed=True, plugin="opencv", verbose=False)
    moving.replace_filename(r"C:\Users\somebody\mice\arena.mp4", open=False)
    labels.save("labels.slp", verbose=False)
    return {name: _sleap_reads(sio, Path(name)) for name in ("labels.slp", "packed.pkg.slp")}


def drawn_copy(sio: Any, drawn: Any) -> Any:
    return sio.PredictedInstance.from_numpy(
        drawn.numpy(), skeleton=drawn.skeleton, point_scores=drawn.points["score"], score=drawn.score
    )


def _sleap_points(body: Any) -> dict[str, list[float]]:
    """What sleap-io has of a body's points, by name: x, y, and whether it is visible."""
    return {
        str(point["name"]): [*map(float, point["xy"]), bool(point["visible"])]
        for point in body.points
        if not np.isnan(point["xy"]).any()
    }


def _sleap_reads(sio: Any, path: Path) -> dict[str, Any]:
    labels = sio.load_slp(str(path), open_videos=path.name.endswith(".pkg.slp"))
    found = {}
    for frame in labels:
        place = f"{labels.videos.index(frame.video)}/{frame.frame_idx}"
        found[place] = {
            "bodies": [
                {
                    "predicted": type(body).__name__ == "PredictedInstance",
                    "track": body.track.name if body.track else None,
                    "points": _sleap_points(body),
                }
                for body in frame.instances
            ]
        }
        if path.name.endswith(".pkg.slp"):
            picture = np.asarray(frame.image)
            found[place]["colour"] = np.broadcast_to(picture, (60, 80, 3))[30, 30].tolist()
    return found


def nwb() -> dict[str, Any]:
    from ndx_pose import (
        PoseTraining,
        Skeleton,
        SkeletonInstance,
        SkeletonInstances,
        Skeletons,
        SourceVideos,
        TrainingFrame,
        TrainingFrames,
    )
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject
    from pynwb.image import ImageSeries

    folder = ROOT / "nwb"
    folder.mkdir(parents=True, exist_ok=True)
    film(folder / "arena.mp4")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    file = NWBFile(session_description="mice", identifier="mice", session_start_time=now)
    file.subject = Subject(subject_id="mouse 7", species="Mus musculus", sex="U", age="P90D")
    skeleton = Skeleton(name="lab_mouse", nodes=list(NAMES), edges=np.array([[0, 1], [0, 2], [0, 3]], np.uint8))
    video = ImageSeries(
        name="arena", format="external", external_file=["arena.mp4"], dimension=[80, 60], starting_frame=[0], rate=10.0,
        num_samples=12, description="film",
    )  # fmt: skip
    seen = [[True, False, False, True], [True] * 4]
    frames = [
        TrainingFrame(
            name=f"frame_{number}",
            annotator="somebody",
            skeleton_instances=SkeletonInstances(
                skeleton_instances=[
                    SkeletonInstance(
                        name=f"body_{place}", id=np.uint(place), node_locations=np.array(points),
                        node_visibility=np.array(seen[place]), skeleton=skeleton,
                    )
                    for place, points in enumerate(bodies)
                ]
            ),
            source_video=video,
            source_video_frame_index=np.uint(index),
        )
        for number, index, bodies in ((2, 5, [BOB, EVE]), (10, 7, [EVE]), (1, 3, []))
    ]  # fmt: skip
    training = PoseTraining(
        training_frames=TrainingFrames(training_frames=frames), source_videos=SourceVideos(image_series=[video])
    )
    behaviour = file.create_processing_module(name="behavior", description="poses")
    behaviour.add(Skeletons(skeletons=[skeleton]))
    behaviour.add(training)
    path = folder / "training.nwb"
    with NWBHDF5IO(str(path), "w") as io:
        io.write(file, cache_spec=False)
    with NWBHDF5IO(str(path), "r") as io:
        read = io.read().processing["behavior"]["PoseTraining"].training_frames.training_frames
        return {
            "training.nwb": {
                f"arena/{frame.source_video_frame_index}": {
                    "bodies": [
                        {
                            "points": {
                                str(name): [*map(float, place), bool(visible)]
                                for name, place, visible in zip(
                                    body.skeleton.nodes[:], body.node_locations[:], body.node_visibility[:], strict=True
                                )
                                if not np.isnan(place).any()
                            }
                        }
                        for body in sorted(
                            frame.skeleton_instances.skeleton_instances.values(), key=lambda one: int(one.id)
                        )
                    ]
                }
                for frame in read.values()
            }
        }


TRACKED = np.arange(4)[:, None] + np.array([[10.5, 20.25], [11.5, 21.25], [NAN, NAN]])[:, None]
"""(T, K, 2) of a tracker; nothing is found in the last row."""


def nwb_estimation() -> dict[str, Any]:
    """What trackers write: two bodies of one film, every second frame of it, and what pynwb reads in the file."""
    from ndx_pose import PoseEstimation, PoseEstimationSeries, Skeleton, Skeletons
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.image import ImageSeries

    file = NWBFile("mice", "mice", datetime(2026, 1, 1, tzinfo=UTC))
    skeleton = Skeleton(name="lab_mouse", nodes=list(NAMES), edges=np.array([[0, 1], [0, 2], [0, 3]], np.uint8))
    video = ImageSeries(
        name="arena", format="external", external_file=["arena.mp4"], dimension=[80, 60], starting_frame=[0], rate=10.0,
        num_samples=12, description="film",
    )  # fmt: skip
    file.add_acquisition(video)
    behaviour = file.create_processing_module(name="behavior", description="poses")
    behaviour.add(Skeletons(skeletons=[skeleton]))
    for name, away in (("bob", 0.0), ("eve", 30.0)):
        series = [
            PoseEstimationSeries(
                name=point, description="a point", data=TRACKED[:, place] + [away, 0], unit="pixels",
                reference_frame="the upper left pixel", timestamps=[0.1, 0.3, 0.5], confidence=[0.9, 0.25, NAN],
            )
            for place, point in enumerate(NAMES)
        ]  # fmt: skip
        behaviour.add(PoseEstimation(name=name, pose_estimation_series=series, skeleton=skeleton, source_video=video))
    path = ROOT / "nwb_estimation" / "estimation.nwb"
    path.parent.mkdir(parents=True, exist_ok=True)
    film(path.with_name("arena.mp4"))
    with NWBHDF5IO(str(path), "w") as io:
        io.write(file, cache_spec=False)
    with NWBHDF5IO(str(path), "r") as io:
        found: dict[str, Any] = {}
        for name in ("bob", "eve"):
            read = io.read().processing["behavior"][name]
            rate = read.source_video.rate
            times = next(iter(read.pose_estimation_series.values())).timestamps[:]
            for row, time in enumerate(times):
                points = {
                    str(node): [*map(float, read.pose_estimation_series[node].data[row]), True]
                    for node in read.skeleton.nodes[:]
                    if not np.isnan(read.pose_estimation_series[node].data[row]).any()
                }
                scores = [float(read.pose_estimation_series[node].confidence[row]) for node in read.skeleton.nodes[:]]
                if points:
                    one = {"track": name, "predicted": True, "points": points, "score": scores[0]}
                    found.setdefault(f"arena/{round(time * rate)}", {"bodies": []})["bodies"].append(one)
    return {"estimation.nwb": found, "from_sleap.nwb": _sleap_nwb(path.parent)}


def _sleap_nwb(folder: Path) -> dict[str, Any]:
    """Predictions by sleap-io, which writes no other frames than the first ones of a film."""
    import sleap_io as sio

    os.chdir(folder)
    skeleton = sio.Skeleton(nodes=list(NAMES), edges=list(LINKS), name="lab_mouse")
    video = sio.Video.from_filename("arena.mp4")
    frames = [
        sio.LabeledFrame(
            video=video,
            frame_idx=number,
            instances=[
                sio.PredictedInstance.from_numpy(
                    np.array(BOB) + number, skeleton=skeleton, point_scores=np.full(4, 0.5), score=0.5
                )
            ],
        )
        for number in range(2)
    ]
    sio.save_nwb(sio.Labels(frames, skeletons=[skeleton], videos=[video]), "from_sleap.nwb", nwb_format="predictions")
    return {
        f"arena/{frame.frame_idx}": {
            "bodies": [
                {
                    "track": "track=untracked",
                    "predicted": type(body).__name__ == "PredictedInstance",
                    "score": 0.5,
                    "points": _sleap_points(body),
                }
                for body in frame.instances
            ]
        }
        for frame in sio.load_nwb("from_sleap.nwb")
    }


def datumaro() -> dict[str, Any]:
    from datumaro.components.annotation import AnnotationType, Bbox, LabelCategories, Points, PointsCategories
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image

    folder = ROOT / "datumaro"
    shutil.rmtree(folder, ignore_errors=True)
    categories = {
        AnnotationType.label: LabelCategories.from_iterable(["stone", "mouse", *((name, "mouse") for name in NAMES)]),
        AnnotationType.points: PointsCategories.from_iterable([(1, list(NAMES), {(1, 2), (1, 3), (1, 4)})]),
    }
    canvas = np.full((60, 80, 3), 90, np.uint8)

    def body(points: Any, flags: list[int], group: int, **attributes: Any) -> Points:
        flat = np.nan_to_num(np.array(points)).ravel().tolist()
        return Points(flat, flags, label=1, id=group, group=group, attributes=attributes)

    items = [
        DatasetItem(
            "0", media=Image.from_numpy(canvas),
            annotations=[
                body(BOB, [2, 1, 0, 2], 1, track_id=3), Bbox(10, 11, 20, 30, label=1, id=1, group=1),
                Bbox(1, 1, 5, 5, label=0, id=2, group=2),
            ],
        ),
        DatasetItem("b/1", media=Image.from_numpy(canvas), annotations=[body(EVE, [2, 2, 1, 2], 2)]),
    ]  # fmt: skip
    dataset = Dataset.from_iterable(items, categories=categories)
    dataset.export(str(folder), "datumaro", save_media=True)
    found = {}
    for item in Dataset.import_from(str(folder), "datumaro"):
        found[str(item.id)] = {
            "bodies": [
                {
                    "points": {
                        name: [*map(float, one.points[2 * place : 2 * place + 2]), int(one.visibility[place]) == 2]
                        for place, name in enumerate(NAMES)
                        if int(one.visibility[place])
                    }
                }
                for one in item.annotations
                if isinstance(one, Points)
            ]
        }
    return {"annotations/default.json": found}


def label_studio() -> dict[str, Any]:
    import sleap_io as sio

    folder = ROOT / "label_studio"
    folder.mkdir(parents=True, exist_ok=True)
    labels = sio.load_slp(str(ROOT / "sleap" / "labels.slp"), open_videos=False)
    sio.save_labelstudio(sio.Labels([labels[0]], skeletons=labels.skeletons), str(folder / "from_sleap.json"))
    path = folder / "from_sleap.json"
    (frame,) = sio.load_labelstudio(str(path), skeleton=list(NAMES))
    return {
        "from_sleap.json": {
            str(frame.frame_idx): {
                "bodies": [
                    {
                        "points": {
                            str(point["name"]): [*map(float, point["xy"]), True]
                            for point in body.points
                            if point["visible"]  # a point that the file lacks is read as hidden at (0, 0)
                        }
                    }
                    for body in frame.instances
                ]
            }
        }
    }


def yolo() -> dict[str, Any]:
    """What Ultralytics' own check of a label file makes of ours, and sleap-io's export."""
    import sleap_io as sio

    folder = ROOT / "yolo"
    shutil.rmtree(folder, ignore_errors=True)
    os.chdir(ROOT / "sleap")
    labels = sio.load_slp("labels.slp")
    sio.save_ultralytics(
        sio.Labels([labels[3]], skeletons=labels.skeletons, videos=[labels.videos[1]]),
        str(folder / "from_sleap"), split_ratios={"train": 1.0}, verbose=False,
    )  # fmt: skip
    own = folder / "own"
    stills = pictures(own / "images" / "train", 5)
    (own / "labels" / "train").mkdir(parents=True)
    (own / "data.yaml").write_text(
        "path: /home/somebody/mice\ntrain: images/train\nval: images/train\nnames: {0: mouse, 1: rat}\n"
        "kpt_shape: [4, 3]\nflip_idx: [0, 2, 1, 3]\nkpt_names: {0: [nose, left_ear, right_ear, tail]}\n"
    )
    body = "0.4 0.5 0.5 0.6 0.25 0.25 2 0.5 0.3 1 0 0 0 0.375 0.75 2"
    rows = {
        0: [f"0 {body}"],
        1: [f"1 {body}", f"0 {body}", f"1 {body}"],  # one row twice
        2: [f"0 {body.replace('0.375', '1.02')}"],  # beyond what Ultralytics takes
        3: [],
    }
    for number, lines in rows.items():
        (own / "labels" / "train" / f"{number}.txt").write_text("\n".join(lines))
    return {"own": {Path(still).name: _ultralytics_reads(Path(still), 4, 3) for still in stills}}


def _ultralytics_reads(still: Path, count: int, each: int) -> dict[str, Any] | None:
    from ultralytics.data.utils import verify_image_label

    label = Path(str(still).replace("/images/", "/labels/")).with_suffix(".txt")
    found = verify_image_label((str(still), str(label), "", True, 2, count, each, False))
    if found[0] is None:
        return None
    points = (np.asarray(found[4]) * [80, 60, 1]).tolist()
    boxes = (np.asarray(found[1])[:, 1:] * [80, 60, 80, 60]).tolist()
    return {"classes": np.asarray(found[1])[:, 0].astype(int).tolist(), "boxes": boxes, "points": points}


def exports() -> dict[str, Any]:
    """What the tools read in our exports: a body with a hidden and a missing point, and one that a model drew."""
    import sleap_io as sio
    from datumaro.components.annotation import Points
    from datumaro.components.dataset import Dataset
    from label_studio_sdk.label_interface import LabelInterface
    from two_mice import SKELETON, picture, records  # of the folder of this script

    from posecore.labels.export import export

    folder = ROOT / "exports"
    for kind in ("sleap", "yolo", "coco", "label-studio", "cvat"):
        export([(record, picture()) for record in records()], SKELETON, "train", kind, folder / kind)
    os.chdir(folder / "sleap")
    labels = sio.load_slp("train.slp")
    found: dict[str, Any] = {"sleap": _sleap_reads(sio, Path("train.slp"))}
    skeleton = labels.skeletons[0]
    found["sleap skeleton"] = {
        "links": [[edge.source.name, edge.destination.name] for edge in skeleton.edges],
        "pairs": [sorted(node.name for node in symmetry.nodes) for symmetry in skeleton.symmetries],
        "pictures": [str(name) for name in labels.videos[0].filename],
    }
    stills = sorted((folder / "yolo" / "images" / "train").iterdir())
    found["yolo"] = {still.name: _ultralytics_reads(still, 4, 3) for still in stills}
    dataset = Dataset.import_from(str(folder / "coco"), "coco_person_keypoints")
    found["datumaro of coco"] = {
        str(item.id): [
            [*map(float, one.points), *(int(flag) for flag in one.visibility)]
            for one in item.annotations
            if isinstance(one, Points)
        ]
        for item in dataset
    }
    tasks = json.loads((folder / "label-studio" / "train.json").read_text())
    interface = LabelInterface((folder / "label-studio" / "label_config.xml").read_text())
    found["label-studio"] = [
        [interface.validate_annotation(one) for one in task.get("annotations", [])]
        + [interface.validate_prediction(one) for one in task.get("predictions", [])]
        for task in tasks
    ]
    return found


def deeplabcut() -> dict[str, Any]:
    """A table of two animals as DeepLabCut writes it, with pandas, and what sleap-io reads in it.

    DeepLabCut has no hidden points. sleap-io numbers rows, not frames, and puts points in the order of the alphabet.
    """
    import pandas as pd

    folder = ROOT / "deeplabcut" / "labeled-data" / "arena"
    shutil.rmtree(ROOT / "deeplabcut", ignore_errors=True)
    folder.mkdir(parents=True)
    for still, number in zip(pictures(folder, 2), (5, 7), strict=True):
        Path(still).rename(folder / f"img{number:02d}.png")
    (ROOT / "deeplabcut" / "config.yaml").write_text(
        "Task: mice\nscorer: lab\nmultianimalproject: true\nindividuals: [bob, eve]\nuniquebodyparts: []\n"
        f"multianimalbodyparts: [{', '.join(NAMES)}]\nskeleton: [[nose, left_ear], [nose, right_ear], [nose, tail]]\n"
        "bodyparts: MULTI!\n"
    )
    levels = ["scorer", "individuals", "bodyparts", "coords"]
    columns = pd.MultiIndex.from_product([["lab"], ["bob", "eve"], NAMES, ["x", "y"]], names=levels)
    index = pd.MultiIndex.from_tuples([("labeled-data", "arena", f"img{number:02d}.png") for number in (5, 7)])
    rows = [[*np.array(BOB).ravel(), *np.array(EVE).ravel()], [NAN] * 8 + [*np.array(EVE).ravel()]]
    pd.DataFrame(rows, index=index, columns=columns).to_csv(folder / "CollectedData_lab.csv")
    return _by_sleap_io(folder / "CollectedData_lab.csv")


def lightning_pose() -> dict[str, Any]:
    """A table of one animal as Lightning Pose has it, with pandas, and what sleap-io reads in it."""
    import pandas as pd

    folder = ROOT / "lightning_pose"
    shutil.rmtree(folder, ignore_errors=True)
    for still, number in zip(pictures(folder / "labeled-data" / "arena", 2), (5, 7), strict=True):
        Path(still).rename(folder / "labeled-data" / "arena" / f"img{number:02d}.png")
    levels = ["scorer", "bodyparts", "coords"]
    columns = pd.MultiIndex.from_product([["lab"], NAMES, ["x", "y"]], names=levels)
    index = [f"labeled-data/arena/img{number:02d}.png" for number in (5, 7)]
    table = pd.DataFrame([np.array(BOB).ravel(), np.array(EVE).ravel()], index=index, columns=columns)
    table.to_csv(folder / "CollectedData.csv")
    return _by_sleap_io(folder / "CollectedData.csv")


def _by_sleap_io(path: Path) -> dict[str, Any]:
    import sleap_io as sio

    return {
        str(frame.frame_idx): {
            "bodies": [
                {
                    "track": body.track.name if body.track else None,
                    "points": _sleap_points(body),
                }
                for body in frame.instances
            ]
        }
        for frame in sio.load_dlc(str(path))
    }


def cvat() -> dict[str, Any]:
    """What datumaro reads in our export, and in its own, whose points have no names: that one is for us to refuse."""
    from datumaro.components.annotation import Bbox, Points
    from datumaro.components.dataset import Dataset

    ours = Dataset.import_from(str(ROOT / "exports" / "cvat"), "cvat")
    labels = [label.name for label in next(iter(ours.categories().values()))]
    read = {
        str(item.id): {
            "bodies": [
                {
                    "predicted": any(one.attributes.get("source") == "auto" for one in item.annotations),
                    "points": {
                        labels[one.label]: [*map(float, one.points), not one.attributes["occluded"]]
                        for one in item.annotations
                        if isinstance(one, Points)
                    },
                    "groups": [one.group for one in item.annotations if isinstance(one, Points)],
                }
            ]
        }
        for item in ours
    }
    folder = ROOT / "cvat"
    shutil.rmtree(folder, ignore_errors=True)
    Dataset.import_from(str(ROOT / "datumaro"), "datumaro").export(str(folder), "cvat", save_media=True)
    (body, *_) = [
        one
        for one in next(iter(Dataset.import_from(str(folder), "cvat"))).annotations
        if isinstance(one, Points) and not isinstance(one, Bbox)
    ]
    flat = [float(value) for value in body.points]
    points = {
        name: [*flat[2 * place : 2 * place + 2], int(body.visibility[place]) == 2] for place, name in enumerate(NAMES)
    }
    return {"exports": read, "default.xml": {"0": {"bodies": [{"points": points}]}}}


def via() -> None:
    """A project as VIA 2 has it (its "json" export's form within it): there is no library that reads it."""
    folder = ROOT / "via"
    shutil.rmtree(folder, ignore_errors=True)
    pictures(folder, 2)
    metadata = {}
    for number, bodies in enumerate(([BOB, EVE], [EVE])):
        regions = [
            {
                "shape_attributes": {"name": "point", "cx": x, "cy": y},
                "region_attributes": {"name": name, "body": str(place), "visibility": "hidden" if x == 23 else "seen"},
            }
            for place, points in enumerate(bodies)
            for name, (x, y) in zip(NAMES, points, strict=True)
            if x == x
        ]
        entry = {"filename": f"{number}.png", "size": -1, "regions": regions, "file_attributes": {}}
        metadata[f"{number}.png-1"] = entry
    (folder / "via_project.json").write_text(json.dumps({"_via_img_metadata": metadata, "_via_settings": {}}, indent=1))


def mmengine() -> None:
    """A training file with a curve in its message hub."""
    import torch
    from mmengine.logging import MessageHub

    hub = MessageHub.get_instance("training")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("iter", 3)
    contents = {"meta": {"epoch": 1, "seed": np.int64(3)}, "state_dict": {"w": torch.ones(2)}, "optimizer": {}}
    torch.save({**contents, "message_hub": hub.state_dict()}, ROOT / "mmengine_training.pth")


PARTS: dict[str, Callable[[], Any]] = {
    "sleap": sleap,
    "nwb": nwb,
    "nwb_estimation": nwb_estimation,
    "datumaro": datumaro,
    "label_studio": label_studio,
    "yolo": yolo,
    "exports": exports,
    "deeplabcut": deeplabcut,
    "lightning_pose": lightning_pose,
    "cvat": cvat,
    "via": via,
    "mmengine": mmengine,
}
"""In an order in which each finds what it needs."""


def main(parts: Sequence[str]) -> None:
    """Writes all, or the parts named anew."""
    place = ROOT / "read.json"
    read = json.loads(place.read_text()) if parts else {}
    if not parts:
        shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True, exist_ok=True)
    for name in parts or PARTS:
        found = PARTS[name]()
        if found is not None:
            read[name] = found
    place.write_text(json.dumps(read, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
