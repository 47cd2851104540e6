"""SLEAP's ``.slp``: labels as instances, pre-labels as predicted ones, which a person turns into labels one by one."""

import io
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import orjson
from numpy.typing import NDArray

from posecore.formats.named_points import PREDICTED, SCORES
from posecore.formats.writing.writer import LabelledPicture, LabelWriter
from posecore.schema import Json
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import write_atomically

_INSTANCE = np.dtype(
    [
        ("instance_id", "i8"), ("instance_type", "u1"), ("frame_id", "u8"), ("skeleton", "u4"), ("track", "i4"),
        ("from_predicted", "i8"), ("score", "f4"), ("point_id_start", "u8"), ("point_id_end", "u8"),
        ("tracking_score", "f4"),
    ]
)  # fmt: skip
_FRAME = np.dtype(
    [("frame_id", "u8"), ("video", "u4"), ("frame_idx", "u8"), ("instance_id_start", "u8"), ("instance_id_end", "u8")]
)
_POINT = np.dtype([("x", "f8"), ("y", "f8"), ("visible", "?"), ("complete", "?")])
_PREDICTED = np.dtype([*_POINT.descr, ("score", "f8")])
_FORMAT = 1.2
Row: TypeAlias = tuple[float, ...]
"""Of one of these tables."""
_BODY, _SYMMETRY = 1, 2


class SleapWriter(LabelWriter):
    """Writes ``<split>.slp``, whose one video is the list of the pictures; boxes, subjects and categories are lost."""

    def __init__(self, folder: Path, split: str, skeleton: Skeleton) -> None:
        super().__init__(folder, split, skeleton)
        self._pictures: list[LabelledPicture] = []

    def add(self, picture: LabelledPicture) -> None:
        """Takes a picture."""
        self._pictures.append(picture)

    def close(self) -> list[Path]:
        """Writes the file."""
        frames: list[Row] = []
        instances: list[Row] = []
        points: list[Row] = []
        predicted: list[Row] = []
        tracks: dict[str, int] = {}
        for number, picture in enumerate(self._pictures):
            first = len(instances)
            for body in picture.bodies:
                if body.is_crowd:
                    self.lost["crowd regions"] += 1
                    continue
                self.lost["subjects"] += body.subject_id is not None
                track = -1 if body.track_id is None else tracks.setdefault(body.track_id, len(tracks))
                is_drawn = bool(body.extras.get(PREDICTED))
                rows: list[Row] = [
                    (x, y, flag == 2, False) if flag else (np.nan, np.nan, False, False)
                    for x, y, flag in body.keypoints.tolist()
                ]
                scores = body.extras.get(SCORES) or {}
                if is_drawn:
                    named = zip(rows, self.skeleton.names, strict=True)
                    rows = [(*row, float(scores.get(name, 0))) for row, name in named]
                table = predicted if is_drawn else points
                score = float(np.mean(list(scores.values()))) if scores else 0.0
                start = len(table)
                table += rows
                place = len(instances)
                instances.append((place, int(is_drawn), number, 0, track, -1, score, start, len(table), 0.0))
            frames.append((number, 0, number, first, len(instances)))
        path = self.folder / f"{self.split}.slp"
        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            group = file.create_group("metadata")
            group.attrs["format_id"] = _FORMAT
            group.attrs["json"] = np.bytes_(orjson.dumps(_metadata(self.skeleton)))
            file["videos_json"] = _texts([self._video()])
            file["tracks_json"] = _texts([[0, name] for name in tracks])
            file["suggestions_json"] = _texts([])
            for name, rows, kind in (
                ("frames", frames, _FRAME),
                ("instances", instances, _INSTANCE),
                ("points", points, _POINT),
                ("pred_points", predicted, _PREDICTED),
            ):
                file[name] = np.array(rows, kind)
        write_atomically(path, memory.getvalue())
        self.lost += type(self.lost)()
        return [path]

    def _video(self) -> Json:
        names = [picture.path for picture in self._pictures]
        first = self._pictures[0] if self._pictures else None
        height, width = (first.height, first.width) if first else (0, 0)
        backend = {
            "type": "ImageVideo",
            "filename": names[0] if names else "",
            "filenames": names,
            "shape": [len(names), height, width, 3],
            "height_": height,
            "width_": width,
            "channels_": 3,
            "grayscale": False,
        }
        return {"filename": names, "backend": backend}


def _texts(rows: list[Json]) -> NDArray[Any]:
    return np.array([orjson.dumps(row) for row in rows], dtype=h5py.special_dtype(vlen=bytes))


def _metadata(skeleton: Skeleton) -> Json:
    links: list[Json] = []
    kinds: dict[int, int] = {}
    pairs = [(_BODY, *link) for link in skeleton.link_indices] + [(_SYMMETRY, *pair) for pair in skeleton.flip_pairs]
    for place, (kind, source, target) in enumerate(pairs):
        known = kinds.get(kind)
        stated: Json = {"py/id": known}
        if known is None:
            kinds[kind] = len(kinds) + 1
            stated = {"py/reduce": [{"py/type": "sleap.skeleton.EdgeType"}, {"py/tuple": [kind]}]}
        link: dict[str, Json] = {"key": 0, "source": source, "target": target, "type": stated}
        links.append(link | {"edge_insert_idx": place} if kind == _BODY else link)
    nodes = [{"id": place} for place in range(skeleton.num_keypoints)]
    graph = {"name": skeleton.name, "num_edges_inserted": len(skeleton.link_indices)}
    return {
        "version": "2.0.0",
        "skeletons": [{"directed": True, "graph": graph, "links": links, "multigraph": True, "nodes": nodes}],
        "nodes": [{"name": name, "weight": 1.0} for name in skeleton.names],
        "videos": [],
        "tracks": [],
        "suggestions": [],
        "negative_anchors": {},
        "provenance": {},
    }
