"""``posecore predict``: photos and videos to keypoints, as files and as pictures."""

import argparse
from pathlib import Path

from posecore.cli.commands import Commands, positive
from posecore.cli.model_argument import MODEL_HELP, add_reading, add_registry, add_scene_reading

FORMATS = ("coco", "parquet", "drawn", "tracks", "nwb")
"""What can be written; the first three are."""


def add(commands: Commands) -> None:
    """Adds ``predict``."""
    predict = commands.add_parser("predict")
    predict.set_defaults(run=_predict)
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help="photo, video, folder of them, or quoted pattern")
    predict.add_argument(
        "--out", type=Path, default=Path("predictions"), help="folder of results (default: predictions)"
    )
    predict.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=FORMATS[:3],
        help="what to write (default: coco parquet drawn); of videos also tracks, which are CSV as DeepLabCut and "
        "SLEAP have them, and nwb",
    )
    predict.add_argument(
        "--min-score",
        type=float,
        default=0.3,
        help="points with a lower score are drawn pale, or not at all, and not judged (default: 0.3)",
    )

    predict.add_argument(
        "--plausibility", metavar="STATISTICS",
        help="file of `posecore labels learn`: the table then says how plausible each body is for that population",
    )  # fmt: skip

    model = predict.add_argument_group("model")
    model.add_argument("--model", required=True, help=MODEL_HELP)
    add_reading(model, backbone=False)
    model.add_argument(
        "--dataset", "--skeleton", nargs="+", default=[], metavar="NAME",
        help="whose points to find: datasets or skeletons the model knows, or all (default: its first)",
    )  # fmt: skip
    model.add_argument("--batch-size", type=positive, default=32, help="crops per pass (default: 32)")
    model.add_argument(
        "--flip-test", action="store_true", help="average with the mirrored crop: better, twice the time"
    )
    model.add_argument(
        "--path", choices=["regression", "prototypes", "average"], default="regression",
        help="where heatmaps come from: the head, its prototypes, or the mean of both (default: regression)",
    )  # fmt: skip
    model.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the network")
    model.add_argument(
        "--scale-range", metavar="LOW:HIGH", help="values that become 0 and 255 of photos of 16 bits (default: refused)"
    )
    model.add_argument(
        "--backend", choices=["torch", "onnxruntime", "openvino"], default="torch",
        help="who runs the network on a processor; onnxruntime in float32, openvino in either (default: torch)",
    )  # fmt: skip
    model.add_argument(
        "--group", nargs="+", default=[], metavar="TRAIT=GROUP",
        help="what holds of all bodies, such as view=side: radii of a calibrated model then hold in that group, too",
    )  # fmt: skip
    model.add_argument("--compile", action="store_true", help="compile the network first; pays for many images")
    add_registry(model)

    bodies = predict.add_argument_group(
        "bodies (default: one in every image, filling it; a model of whole pictures finds all and takes no boxes)"
    )
    bodies.add_argument("--boxes", type=Path, help="boxes: COCO JSON, or a table image, x, y, w, h[, score, frame]")
    bodies.add_argument(
        "--detector",
        help="object-detection model of transformers: a folder, or organisation/name[@revision] on the hub",
    )
    bodies.add_argument("--detector-label", default="person", help="class the detector looks for (default: person)")
    bodies.add_argument("--detector-score", type=float, default=0.3, help="least score of a box (default: 0.3)")

    add_scene_reading(bodies)

    video = predict.add_argument_group("video")
    video.add_argument("--track", action="store_true", help="number the bodies through the video by overlap of boxes")
    video.add_argument("--smooth", action="store_true", help="filter the points of every track; implies --track")


def _predict(options: argparse.Namespace) -> int:
    # Imported here because torch takes seconds, which no other command should wait for.
    from posecore.cli.predict_job import predict

    return predict(options)
