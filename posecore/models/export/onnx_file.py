"""One head of a model as an ONNX file that any runtime can run, and everything needed to use it in its metadata.

What the file takes and answers is its layout (:mod:`posecore.models.export.graphs`). That of crops leaves cropping and
decoding outside: the metadata says how, as JSON under the keys of :func:`onnx_metadata`.
"""

import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posecore.asides import aside_folder
from posecore.errors import CheckpointError, ConfigError
from posecore.extras import needed, refuse_missing
from posecore.models.architecture import ModelCard
from posecore.models.export.graphs import Graph, GraphLayout, graph_of
from posecore.models.merge import merge_experts
from posecore.models.outline import without_memory
from posecore.models.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from posecore.models.pose_model import PoseModel

TOLERANCE = 1e-4
"""Largest difference of the exported graph's outputs, relative to the largest output or to 1."""
METADATA_PREFIX = "posecore."
"""What the keys of our metadata begin with."""
_NEEDED_BY = "ONNX export"
_OPSET = 18
_ONE_FILE_BYTES = 1_900_000_000
"""Weights of a graph in one file, whose format ends at 2 GB. Larger ones, and operations that torch's quick exporter
does not know, take its other one, which needs ten times as long (RTMPose-m: 11 s of processor time against 1.1)."""


def export_onnx(
    model: PoseModel, task: str, path: Path, layout: GraphLayout = "crops", one_file_bytes: int = _ONE_FILE_BYTES
) -> Graph:
    """Writes one head of a model as ONNX; weights above 2 GB go to a second file beside it, ``<name>.data``.

    Args:
        model: experts are merged into a dense model first; Sapiens2's rotation is exported in float32, which changes
            its outputs a little against the bfloat16 it was trained with.
        task: the head.
        path: file to write.
        layout: what the file takes and answers.
        one_file_bytes: weights above which a second file is written.

    Returns:
        The float32 graph that the file was made from.

    Raises:
        ConfigError: there is no such head, the model was read from such a file, the layout cannot hold it, or the
            packages of the ``export`` extra are missing.
    """
    if model.config.backbone.finished:
        raise ConfigError(
            "the model is an ONNX file already, which is not written again; copy the file it was read from."
        )
    dense = dense_model(model, [task])
    graph = graph_of(dense, task, layout).eval()
    metadata = {"layout": json.dumps(layout), **onnx_metadata(dense, task)}
    write_graph(graph, path, {METADATA_PREFIX + key: value for key, value in metadata.items()}, one_file_bytes)
    return graph


def dense_model(model: PoseModel, heads: Sequence[str]) -> PoseModel:
    """A float32 copy on the CPU that a graph can be made of: experts merged, Sapiens2's rotation in float32.

    Args:
        model: stays as it is.
        heads: wanted; one, if the model has experts.
    """
    return _with_exact_rotation(
        single_head(model, heads[0]) if len(heads) == 1 else _rebuilt(model, model.card)
    ).float()


def has_experts(model: PoseModel) -> bool:
    """Whether heads see features of their own."""
    return model.config.backbone.has_experts


def write_graph(
    graph: Graph, path: Path, metadata: Mapping[str, str] | None = None, one_file_bytes: int = _ONE_FILE_BYTES
) -> None:
    """Writes a graph as ONNX.

    Args:
        graph: in evaluation mode.
        path: file to write; its folder is made if missing.
        metadata: to write into it.
        one_file_bytes: weights above which a second file is written.

    Raises:
        ConfigError: the packages of the ``export`` extra are missing.
    """
    refuse_missing("onnxscript", _NEEDED_BY)  # which torch's other exporter imports, if it is asked
    one_file = sum(parameter.nbytes for parameter in graph.parameters()) <= one_file_bytes
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside_folder(path.parent) as folder:
        aside = folder / path.name
        with _silent(), torch.no_grad():
            if not (one_file and _traced(graph, aside)):
                _write(graph, aside, dynamo=True, dynamic_shapes=_dynamic_shapes(graph), external_data=not one_file)
        add_metadata(aside, metadata or {})
        move_files(folder, path.parent)


def add_metadata(path: Path, values: Mapping[str, str]) -> None:
    """Writes further metadata into an ONNX file, by keys that it does not have.

    Nothing is read: protobuf takes one message written after another as one, whose lists go on.
    """
    onnx = _need("onnx")[0]
    entries = [onnx.StringStringEntryProto(key=key, value=value) for key, value in values.items()]
    with path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=entries).SerializeToString())


def move_files(folder: Path, target: Path) -> None:
    """Moves a graph and its data out of the folder in which they were made."""
    for file in sorted(folder.iterdir(), reverse=True):  # the data first, the graph that names it last
        shutil.move(file, target / file.name)


def _traced(graph: Graph, path: Path) -> bool:
    """Whether torch's quick exporter could write the graph; of one that it cannot it prints every line."""
    if any(isinstance(module, torch.nn.RMSNorm) for module in graph.modules()):
        return False
    try:
        _write(graph, path, dynamo=False, dynamic_axes=graph.free_axes)
    except torch.onnx.errors.OnnxExporterError:
        return False
    return True


def _write(graph: Graph, path: Path, **how: Any) -> None:
    torch.onnx.export(
        graph,
        graph.examples(2, torch.Generator().manual_seed(0)),
        str(path),
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        opset_version=_OPSET,
        verbose=False,
        **how,
    )


def _dynamic_shapes(graph: Graph) -> dict[str, dict[int, Any]]:
    return {
        name: {axis: torch.export.Dim(free) for axis, free in graph.free_axes.get(name, {}).items()}
        for name in graph.inputs
    }


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporters say of their own internals and of packages that a graph does not need."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def single_head(model: PoseModel, task: str) -> PoseModel:
    """A dense copy of a model on the CPU that answers for one head, and for those that share it, only.

    Raises:
        ConfigError: there is no such head.
    """
    if task not in model.skeletons:
        raise ConfigError(f"the model has no head {task!r}; it has {', '.join(model.skeletons)}.")
    if has_experts(model):
        model = merge_experts(model, task)
    owner = model.owner(task)
    kept = [dataset for dataset in model.skeletons if model.owner(dataset) == owner]
    shared = {dataset: owner for dataset in kept if dataset != owner}
    card = model.card.model_copy(
        update={
            "architecture": model.config.model_copy(update={"shared_heads": shared}),
            "skeletons": {dataset: model.skeletons[dataset] for dataset in kept},
            "conventions": {dataset: model.conventions[dataset] for dataset in kept},
        }
    )
    return _rebuilt(model, card)


def _with_exact_rotation(model: PoseModel) -> PoseModel:
    exact = model.config.backbone.exact()
    if exact == model.config.backbone:
        return model
    architecture = model.config.model_copy(update={"backbone": exact})
    return _rebuilt(model, model.card.model_copy(update={"architecture": architecture}))


def _rebuilt(model: PoseModel, card: ModelCard) -> PoseModel:
    """A model of another card with those of the weights that it has."""
    with without_memory():
        rebuilt = PoseModel(card)
    weights = model.state_dict()
    rebuilt.load_state_dict({name: weights[name].cpu().clone() for name in rebuilt.state_dict()}, assign=True)
    return rebuilt.eval()


def onnx_metadata(model: PoseModel, task: str) -> dict[str, str]:
    """What a user of the file must know, as JSON by key; in the file each key begins with ``posecore.``."""
    skeleton = model.skeletons[task]
    codec = model.codec(task)
    values = {
        "head": task,
        "skeleton": skeleton.model_dump(mode="json"),
        "keypoints": skeleton.names,
        "flip_pairs": skeleton.flip_pairs,
        "links": skeleton.link_indices,
        "input_size": model.input_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "codec": codec.kind,
        "crop": codec.crop,
        "frame_size": codec.frame_size,
        "conventions": model.conventions[task].model_dump(mode="json"),
        "architecture": model.config.model_dump(mode="json"),
        "licenses": model.card.licenses,
        "lineage": model.card.lineage,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def check_onnx(path: Path, graph: Graph, tolerance: float = TOLERANCE) -> float:
    """Runs the file with onnxruntime at two batch sizes beside the graph it was made from.

    Args:
        path: of the file.
        graph: what :func:`export_onnx` returned.
        tolerance: what is allowed of what is returned.

    Returns:
        The largest difference, relative to the largest output or to 1. Keypoints do not count: where two places are
        nearly the best, either may be found.

    Raises:
        CheckpointError: it is above the tolerance.
        ConfigError: onnxruntime is missing.
    """
    runtime = _need("onnxruntime")[0]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for count in (1, 3):
        given = graph.examples(count, generator)
        with torch.no_grad():
            answer = graph(*given)
        expected = answer if isinstance(answer, tuple) else (answer,)
        found = session.run(None, dict(zip(graph.inputs, (tensor.numpy() for tensor in given), strict=True)))
        for name, ours, theirs in zip(graph.outputs, expected, found, strict=True):
            if name != "keypoints":
                worst = max(worst, _difference(ours, torch.from_numpy(theirs)))
    if not worst <= tolerance:
        raise CheckpointError(f"{path}: onnxruntime computes something else (largest difference {worst:.1e}).")
    return worst


def _difference(expected: Tensor, found: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def _need(*packages: str) -> list[Any]:
    return [needed(package, _NEEDED_BY) for package in packages]
