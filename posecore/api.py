"""What ``import posecore`` offers: the functions that the commands and jobs call, by one name each.

::

    import posecore as pc

    model = pc.load_model("models:/pose@champion")
    (people,) = model.predict([image], [boxes])
    people.keypoints
    trained = pc.train("pipelines/configs/demo.yaml", settings=["training.steps=100"])
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from posecore.config import apply_override, load_config, parse_config
from posecore.counting import counted
from posecore.doors import trusted_file
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.models.weights.published_heads import SKELETONS
from posecore.models.weights.read import guessed_heads
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.prediction.supervision_answers import KeyPoints, write_answers
from posecore.schema import Json
from posecore.scoring.score import Score
from posecore.scoring.tasks import score as score_file
from posecore.scoring.tasks import task_of_file
from posecore.shards.store import ShardStore, open_store
from posecore.skeletons.library import load_skeleton
from posecore.training.planner import plan
from posecore.workflows.named_model import named_weights

__all__ = ["adapt", "distill", "load_model", "open_split", "plan", "pretrain", "save_answers", "score", "train"]


def load_model(
    source: str | PathLike[str],
    *,
    folder: str = "runs",
    tracking_uri: str | None = None,
    expect: str | None = None,
    heads: Mapping[str, str] | None = None,
    **settings: Any,
) -> Predictor:
    """A model that answers for images, on a GPU if there is one.

    Args:
        source: model folder, checkpoint or ONNX file, published name, place on the hub, or ``models:/name@alias``.
        folder: run folder with the local registry, where the source is registered.
        tracking_uri: MLflow server; None takes ``MLFLOW_TRACKING_URI``, else the run folder's file.
        expect: preset or published model that a checkpoint file must be of.
        heads: by dataset, the name or file of the skeleton of each head in a file, where it does not say.
        settings: fields of :class:`~posecore.prediction.predictor.PredictorSettings`.

    Raises:
        ConfigError: a setting is wrong.
        CheckpointError: there are no such weights, or they are not what was expected.
        LineageError: the registry has no such model.

    Warns:
        UserWarning: whose points a head has was guessed from their number.

    Example:
        >>> model = load_model("models:/people/1", folder="run")
        >>> (people,) = model.predict([split.read_image_bytes(0)])
        >>> people.keypoints.shape
        (1, 17, 2)
    """
    wanted = parse_config(settings, PredictorSettings, origin="load_model")
    skeletons = {dataset: load_skeleton(name) for dataset, name in (heads or {}).items()}
    with named_weights(source, folder, tracking_uri) as weights:
        predictor = Predictor.load(weights, wanted, expect, skeletons)
    for dataset, count in guessed_heads(predictor.model.card).items():
        warnings.warn(
            f"that the {counted(count, 'point')} are those of {dataset} is guessed from their number; confirm it with "
            f"heads={{{dataset!r}: {SKELETONS[dataset]!r}}}, or name your own",
            stacklevel=2,
        )
    return predictor


def open_split(location: str | PathLike[str]) -> ShardStore:
    """An ingested split: pictures, labels and unified masks, by row.

    Args:
        location: its folder, local or any fsspec URL.

    Raises:
        IntegrityError: no finished split is there, or its tables are not those its manifest names.

    Example:
        >>> split = open_split("run/shards/coco/coco/val")
        >>> split.num_images
        4
        >>> split.manifest.definition.skeleton.names[:2]
        ('nose', 'left_eye')
    """
    return open_store(location)


def score(
    results: str | PathLike[str],
    truth: str | PathLike[str],
    protocol: str,
    *,
    skeleton: str | None = None,
    options: Mapping[str, Json] | None = None,
    resamples: int = 200,
) -> Score:
    """A file of results held against annotations as published, as ``posecore score`` does.

    Args:
        results: in the dataset's own submission format.
        truth: the annotations.
        protocol: one of :data:`posecore.scoring.tasks.PROTOCOLS`.
        skeleton: of the files' points, where not the protocol's: a name or a YAML file.
        options: of the protocol.
        resamples: of subjects, for intervals; 0 for none.

    Raises:
        ConfigError: there is no such protocol, skeleton or option.
        EvaluationError: the two files do not fit together.

    Example:
        >>> scored = score("results.json", "truth.json", "coco", resamples=0)
        >>> round(scored.metrics["AP"], 3)
        1.0
    """
    task = task_of_file(str(truth), protocol, skeleton=skeleton, options=options)
    return score_file(task, str(results), BootstrapSettings(resamples=resamples) if resamples else None).score


def save_answers(
    out: str | PathLike[str],
    pictures: Sequence[str | PathLike[str]],
    answers: Iterable[KeyPoints],
    skeleton: str,
    *,
    model: str = "",
    annotations: str | PathLike[str] | None = None,
) -> int:
    """Another package's answers, in the files that ``posecore predict`` writes: boxes, labels, or results to score.

    Args:
        out: folder to write into: ``predictions.parquet``, ``coco_<skeleton>.json`` and ``images.json``.
        pictures: JPEG and PNG files, each once.
        answers: a ``supervision.KeyPoints`` for each, in the same order, as RF-DETR's keypoint models return them; they
            are taken one by one, so that a generator needs no memory.
        skeleton: of their points, in their order: a name or a YAML file.
        model: who has answered, for the files.
        annotations: COCO file that has an id for every picture, to be scored against it; nothing else is read of it.
            None takes the numbers by which all are called, as COCO's are, else counts from 1.

    Returns:
        How many bodies there are; those without a single point are left out.

    Raises:
        ConfigError: there is no such skeleton.
        PredictionError: a picture cannot be used or has no id, or an answer does not fit it.

    Example:
        >>> from supervision import KeyPoints
        >>> answer = KeyPoints(xy=people.keypoints, keypoint_confidence=people.keypoint_scores)
        >>> save_answers("found", ["photo.jpg"], [answer], "coco17")
        1
    """
    from posecore.prediction.box_files import read_image_ids  # polars is not needed without

    numbers = None if annotations is None else read_image_ids(Path(annotations))
    files = [Path(picture) for picture in pictures]
    return write_answers(Path(out), files, answers, load_skeleton(skeleton), model, numbers)


def train(
    config: str | PathLike[str] | Mapping[str, Any], *, settings: Sequence[str] = (), on_ray: bool = False
) -> str:
    """The main job: datasets with different skeletons in, one registered model out.

    What is finished in the run's folder is used again, and an interrupted training goes on.

    Args:
        config: a run file, or its content.
        settings: what is to be otherwise in it, as ``training.steps=100``.
        on_ray: on the Ray cluster that there is, or one of this machine; otherwise in this process.

    Returns:
        ``models:/name/version``.

    Raises:
        PoseCoreError: whatever stops the job.

    Example:
        >>> train("train.yaml", settings=["training.steps=1"])
        'models:/people/1'
    """
    return _run("multidataset_train", "JobConfig", config, settings, on_ray)


def adapt(
    config: str | PathLike[str] | Mapping[str, Any], *, settings: Sequence[str] = (), on_ray: bool = False
) -> str:
    """A trained model in, its child for another population out; otherwise as :func:`train`.

    With ``search`` in the run file its parent is returned where no strategy is better than that.

    Example:
        >>> adapt("adapt.yaml", settings=["training.steps=1"])
        'models:/infants/1'
    """
    return _run("adapt", "AdaptationJob", config, settings, on_ray)


def distill(
    config: str | PathLike[str] | Mapping[str, Any], *, settings: Sequence[str] = (), on_ray: bool = False
) -> str:
    """A trained model in, a small one that it has taught out; otherwise as :func:`train`.

    Example:
        >>> distill("distill.yaml", settings=["training.steps=1"])
        'models:/small/1'
    """
    return _run("distill", "DistillationJob", config, settings, on_ray)


def pretrain(
    config: str | PathLike[str] | Mapping[str, Any], *, settings: Sequence[str] = (), on_ray: bool = False
) -> str:
    """Pictures without labels in, a backbone to start from out; otherwise as :func:`train`.

    Example:
        >>> pretrain("pretrain.yaml", settings=["training.steps=1"])
        'models:/pictures/1'
    """
    return _run("pretrain", "PretrainingConfig", config, settings, on_ray)


def _run(job: str, config_class: str, config: Any, settings: Sequence[str], on_ray: bool) -> str:
    from posecore.lineage.jobs.steps import EVERYTHING  # MLflow takes a second

    script = import_module(f"posecore.pipelines.{job}")
    kind = getattr(script, config_class)
    if isinstance(config, Mapping):
        values = deepcopy(dict(config))
        for setting in settings:
            apply_override(values, setting)
        with trusted_file():
            parsed = parse_config(values, kind, origin=job)
    else:
        parsed = load_config(config, kind, settings)
    run: Callable[..., str] = script.run
    return run(parsed, EVERYTHING, _machines(on_ray))


def _machines(on_ray: bool) -> Any:
    if on_ray:
        from posecore.cluster.machines import RayMachines

        return RayMachines()
    from posecore.workflows.without_ray import ThisProcess

    return ThisProcess()
