"""What ``posecore predict`` does; apart from its options because it needs torch."""

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import cv2

from posecore.cli.model_argument import (
    check_scene_reading,
    say_guesses,
    scene_settings,
    stated_skeletons,
    weights_source,
)
from posecore.config import COMMAND_LINE, parse_config
from posecore.counting import counted
from posecore.errors import UsageError
from posecore.labels.plausibility import BodyScorer
from posecore.labels.proportions import BodyStatistics
from posecore.prediction.outputs import CocoResults, ImageList, PredictionTable, Sink
from posecore.prediction.predict_sources import (
    ImageNumbers,
    Locator,
    VideoSettings,
    boxes_of_detector,
    boxes_of_file,
    predict_sources,
    whole_images,
)
from posecore.prediction.predictor import Predictor, PredictorSettings, best_device
from posecore.prediction.smoothing import SmoothingSettings
from posecore.prediction.sources import Source, find_sources
from posecore.prediction.track_files import TrackFiles
from posecore.viz.predictions import DrawnFiles

if TYPE_CHECKING:
    from posecore.prediction.box_files import BoxFile


def predict(options: argparse.Namespace) -> int:
    """Runs the command; the exit status is 1 if any file could not be used."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # a file that is no video is told of below
    if options.boxes and options.detector:
        raise UsageError("--boxes and --detector both say where the bodies are; give one.")
    sources = find_sources(options.inputs, options.out)
    boxes = _boxes(options)
    locate = _locator(options, boxes, sources)
    predictor = _predictor(options)
    say_guesses(predictor.model.card)
    known = predictor.model.skeletons
    names = list(known) if options.dataset == ["all"] else options.dataset or [None]
    skeletons = {head: known[head] for head in map(predictor.head, names)}
    scorers = {}
    if options.plausibility:
        statistics = BodyStatistics.load(options.plausibility)
        scorers = {head: BodyScorer(statistics, skeleton) for head, skeleton in skeletons.items()}
    video = VideoSettings(
        track=options.track or options.smooth, smoothing=SmoothingSettings() if options.smooth else None
    )
    images = ImageList()
    with ExitStack() as files:
        sinks: list[Sink] = [images]
        if "coco" in options.format:
            sinks.append(files.enter_context(CocoResults.open(options.out, list(skeletons))))
        if "parquet" in options.format:
            sinks.append(files.enter_context(PredictionTable.open(options.out, scorers, options.min_score)))
        if (as_csv := "tracks" in options.format) | (as_nwb := "nwb" in options.format):
            sinks.append(files.enter_context(TrackFiles.open(options.out, skeletons, as_csv=as_csv, as_nwb=as_nwb)))
        if "drawn" in options.format:
            drawn = DrawnFiles.open(options.out / "drawn", sources, skeletons, options.min_score)
            sinks.append(files.enter_context(drawn))
        numbers = None if boxes is None else ImageNumbers(boxes)
        report = predict_sources(predictor, sources, list(skeletons), sinks, locate, video, numbers)
    promised = {head: each for head in skeletons if (each := predictor.promised(head)) is not None}
    images.save(options.out, options.model, skeletons, report.failures, promised)
    for _, reason in report.failures:
        print(f"error: {reason}", file=sys.stderr)
    if report.turned:
        print(
            f"note: stored turned or mirrored (EXIF): {counted(len(report.turned), 'photo')}, such as "
            f"{report.turned[0]}; points are those of the stored pixels, as in training, not of what viewers show",
            file=sys.stderr,
        )
    points = ", ".join(f"{head} ({counted(skeleton.num_keypoints, 'point')})" for head, skeleton in skeletons.items())
    failed = f"; {len(report.failures)} could not be used" if report.failures else ""
    answered = f"{counted(report.num_bodies, 'body')} in {counted(report.num_images, 'image')}"
    print(f"{answered} by {points}{failed}: see {options.out}")
    return 1 if report.failures else 0


def _predictor(options: argparse.Namespace) -> Predictor:
    given = {
        name: getattr(options, name) for name in ("batch_size", "flip_test", "path", "precision", "backend", "compile")
    }
    groups = dict(stated.partition("=")[::2] for stated in options.group)
    scale_range = None if options.scale_range is None else options.scale_range.split(":")
    settings = parse_config(
        {**given, **scene_settings(options), "scale_range": scale_range, "groups": groups},
        PredictorSettings,
        origin=COMMAND_LINE,
    )
    with weights_source(options) as source:
        predictor = Predictor.load(source, settings, options.expect, stated_skeletons(options))
    check_scene_reading(options, predictor.model.card)
    return predictor


def _boxes(options: argparse.Namespace) -> "BoxFile | None":
    if not options.boxes:
        return None
    from posecore.prediction.box_files import read_box_file  # polars is not needed without

    return read_box_file(options.boxes)


def _locator(options: argparse.Namespace, boxes: "BoxFile | None", sources: list[Source]) -> Locator:
    if boxes is not None:
        return boxes_of_file(boxes, sources)
    if options.detector:
        from posecore.prediction.detectors import TransformersDetector

        return boxes_of_detector(
            TransformersDetector(options.detector, options.detector_label, options.detector_score, best_device())
        )
    return whole_images
