"""The tracks of a video as an NWB file, by pynwb and ndx-pose, which the community of neurophysiology keeps.

A track is a ``PoseEstimation`` of the module ``behavior``, a point of it a ``PoseEstimationSeries`` with a row for
every frame: x, y in pixels and a confidence, or NaN where the body was not found. The times are those of the frames,
which the ``ImageSeries`` that stands for the video has.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import posecore
from posecore.extras import needed
from posecore.prediction.video_tracks import VideoTracks
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import written_aside

_TIME_OF_SESSION = "When the video was taken is not stated in it: the session begins when this was written."
_WHERE = "x to the right and y down, from the upper left of the picture"


def write_nwb(path: Path, tracks: VideoTracks, skeleton: Skeleton) -> None:
    """Writes one file, whole or not at all.

    Args:
        path: of the file, whose folder is made if missing.
        tracks: of one head.
        skeleton: the head's.

    Raises:
        ConfigError: pynwb or ndx-pose is not installed.
    """
    pynwb, ndx_pose = (needed(package, "an NWB file") for package in ("pynwb", "ndx_pose"))
    file = pynwb.NWBFile(
        session_description=f"Points predicted by posecore. {_TIME_OF_SESSION}",
        identifier=f"posecore/{tracks.video}/{skeleton.name}",
        session_start_time=datetime.now(UTC),
    )
    video = pynwb.image.ImageSeries(
        name="video",
        description="the video that the points are of",
        format="external",
        external_file=[tracks.video],
        starting_frame=[0],
        dimension=list(tracks.size[::-1]),
        timestamps=tracks.times_s,
        unit="n.a.",
    )
    file.add_acquisition(video)
    edges = np.array(skeleton.link_indices, np.uint8 if len(skeleton.names) < 256 else np.uint16)
    nodes = ndx_pose.Skeleton(name=skeleton.name, nodes=list(skeleton.names), edges=edges if len(edges) else None)
    behavior = file.create_processing_module(name="behavior", description="points of bodies over time")
    behavior.add(ndx_pose.Skeletons(skeletons=[nodes]))
    for track in tracks.numbers():
        behavior.add(
            ndx_pose.PoseEstimation(
                name=f"track_{track}",
                description="a body that was followed through the video",
                pose_estimation_series=_series(ndx_pose, tracks.places(track), skeleton.names, video),
                skeleton=nodes,
                source_video=video,
                scorer="posecore",
                source_software="posecore",
                source_software_version=posecore.__version__,
            )
        )
    with (
        written_aside(path) as aside,
        h5py.File(aside, "w", locking=False) as unfinished,  # which is locked already, as every unfinished file is
        pynwb.NWBHDF5IO(file=unfinished, mode="w") as target,
    ):
        target.write(file)


def _series(ndx_pose: Any, places: NDArray[np.float64], names: Sequence[str], video: Any) -> list[Any]:
    """One per point; ``places`` is (T, K, 3)."""
    return [
        ndx_pose.PoseEstimationSeries(
            name=name,
            description=f"{name} of the body",
            data=places[:, point, :2],
            unit="pixels",
            reference_frame=_WHERE,
            timestamps=video,
            confidence=places[:, point, 2],
            confidence_definition="the model's own, between 0 and 1",
        )
        for point, name in enumerate(names)
    ]
