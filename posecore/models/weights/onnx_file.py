"""ONNX files of top-down pose models, whoever exported them: what goes in and comes out is read from the graph.

Known are graphs that take one crop, colours first or last, and give either heatmaps, as exports of ViTPose do, or
SimCC bins of x and y, as mmdeploy's RTMPose and DWPose do; and those that ``posecore export`` wrote. Order of colours
and normalisation are ImageNet's unless mmdeploy's ``pipeline.json`` lies beside the file.

Nothing in such a file can run code: onnxruntime knows its own operators only, and tensors outside the file are read
from its own folder by the onnx package, which refuses other places.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posecore.config import digest_json
from posecore.conventions import Conventions, LabelConventions
from posecore.counting import counted
from posecore.errors import CheckpointError, ConfigError
from posecore.extras import needed
from posecore.models.architecture import SIMCC_CONVENTIONS, ModelCard, ModelConfig, grown
from posecore.models.export.onnx_file import METADATA_PREFIX
from posecore.models.onnx_graph import (
    MAX_GRAPH_BYTES,
    NEEDED_BY,
    OnnxBinsConfig,
    OnnxGraphConfig,
    OnnxHeatmapsConfig,
    open_session,
)
from posecore.models.presets import PRESETS, UDP, VITPOSE_CONVENTIONS
from posecore.models.weights.layout import name_heads
from posecore.models.weights.published_heads import LABELS, SKELETONS, UNMISTAKABLE
from posecore.schema import Json
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import read_at_most, sha256_of

SUFFIX = ".onnx"
ONNX_LAYOUT = "onnx"
UNSTATED = "not stated"
"""Terms of a file that says none."""
PIPELINE_FILE = "pipeline.json"
"""Name of the file in which mmdeploy writes how pictures are prepared."""
_MAX_PIPELINE_BYTES = 1 << 20
_PUBLISHED_SIZES = ((256, 192), (384, 288), (256, 256), (384, 384), (1024, 768))
_DECODING = ("heatmap_sigma", "blur_kernel", "blur_border")
_KNOWN = (
    "known are crops in and heatmaps (1, points, height, width) or SimCC bins of x and y (1, points, bins) out, as "
    "RTMPose, DWPose and ViTPose are exported"
)


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file as a model.

    Attributes:
        card: what it is; its lineage is still empty.
        tensors: by our names.
        guessed: number of points by head, where the skeleton was told by that number alone.
        record: what the file itself says of where it came from.
    """

    card: ModelCard
    tensors: dict[str, Tensor]
    guessed: dict[str, int]
    record: dict[str, Json]


@dataclass(frozen=True)
class _Crops:
    name: str
    batch: int | None
    layout: Literal["nchw", "nhwc"]
    size: tuple[int, int]
    black: Mapping[str, NDArray[np.floating]]  # what the graph makes of black ones


@dataclass(frozen=True)
class _Outputs:
    names: tuple[str, ...]
    shape: tuple[int, ...]
    bins: int | None  # per pixel; None for heatmaps


@dataclass(frozen=True)
class _Told:
    """What ``posecore export`` wrote into a file; nothing of it in files of others."""

    head: tuple[str, Skeleton] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    conventions: Conventions | None = None
    decoding: Mapping[str, Json] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Json] = field(default_factory=dict)


def read_onnx(path: Path, stated: Mapping[str, Skeleton]) -> OnnxFile:
    """Reads an ONNX file.

    Args:
        path: of the file.
        stated: skeleton by name of its one head; empty to take what ``posecore export`` wrote into the file, or else
            the published skeleton with as many points.

    Raises:
        CheckpointError: one sentence: it is cut, too large, none of the known kinds, or of other points than stated.
        ConfigError: onnx or onnxruntime is not installed.
    """
    graph, parameters = _read_graph(path)
    try:
        session = open_session(graph)
    except ConfigError:
        raise
    except Exception as error:  # onnxruntime's errors have no other class in common
        raise CheckpointError(f"{path} cannot be run by onnxruntime ({_one_line(error)}).") from None
    told = _metadata(session.get_modelmeta().custom_metadata_map, path)
    colours, crop = _pipeline(path.parent / PIPELINE_FILE)
    crops = _crops(session, path)
    outputs = _outputs(crops.black, crops.size, path)
    head, skeleton, guessed = _skeleton(outputs.shape[0], stated, told, path)
    backbone = OnnxGraphConfig(
        num_bytes=len(graph),
        num_parameters=parameters,
        input_name=crops.name,
        output_names=outputs.names,
        output_shape=outputs.shape,
        batch=crops.batch,
        layout=crops.layout,
        stride=1 if outputs.bins else crops.size[0] // outputs.shape[1],
        **{"channels": told.channels, **colours},
    )
    published = SIMCC_CONVENTIONS if outputs.bins else VITPOSE_CONVENTIONS.get(head, UDP)
    conventions = told.conventions or published.model_copy(update=crop).on(LABELS.get(head, LabelConventions()))
    config = ModelConfig(
        backbone=backbone,
        head=OnnxBinsConfig(split_ratio=outputs.bins) if outputs.bins else OnnxHeatmapsConfig(),
        input_size=crops.size,
        conventions=conventions.head,
        **{**grown(PRESETS["vitpose-base"], {"input_size": crops.size}), **told.decoding},
    )
    card = ModelCard(
        architecture=config, skeletons={head: skeleton}, conventions={head: conventions}, licenses=dict(told.licenses)
    )
    tensors = {"backbone.graph": torch.frombuffer(bytearray(graph), dtype=torch.uint8)}
    return OnnxFile(card, tensors, {head: skeleton.num_keypoints} if guessed else {}, dict(told.record))


def checksum_onnx(path: Path) -> str:
    """SHA-256 of a file; with tensors outside it, over the hashes of all its files by name."""
    outside = _files_outside(path)
    if not outside:
        return sha256_of(path)
    return digest_json({name: sha256_of(path.parent / name) for name in (path.name, *outside)})


def _load(path: Path, with_tensors: bool) -> Any:
    onnx = needed("onnx", NEEDED_BY)
    if not path.is_file() or path.stat().st_size > MAX_GRAPH_BYTES:
        raise CheckpointError(f"{path} is no file of at most {MAX_GRAPH_BYTES >> 20} MiB, which no ONNX file exceeds.")
    try:
        return onnx.load(path, load_external_data=with_tensors)
    except Exception as error:  # of protobuf, of onnx's checker and of the system alike
        raise CheckpointError(f"{path} is cut or not an ONNX file ({_one_line(error)}); download it again.") from None


def _files_outside(path: Path) -> list[str]:
    places = {
        entry.value
        for tensor in _tensors(_load(path, False).graph)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for place in places:
        if Path(place).name != place or not (path.parent / place).is_file():
            raise CheckpointError(f"{path} keeps tensors in {place!r:.200}, which is not beside it; download both.")
    return sorted(places)


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph, those of its nodes' attributes and of the graphs in them included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)


def _read_graph(path: Path) -> tuple[bytes, int]:
    """The file with all its tensors, and how many numbers its weights are."""
    outside = _files_outside(path)
    model = _load(path, bool(outside))
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    if not outside:
        return path.read_bytes(), parameters
    try:
        return model.SerializeToString(), parameters
    except Exception:
        raise CheckpointError(
            f"{path} has more than 2 GiB of weights, which cannot be held in one graph; use the model's own checkpoint."
        ) from None


def _crops(session: Any, path: Path) -> _Crops:
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        if [each.name for each in inputs] == ["image", "boxes"]:
            raise CheckpointError(
                f"{path} crops and decodes by itself, for programs of others (posecore export --layout picture); "
                "here a model is asked that takes crops: export it with --layout crops, or name the model itself."
            )
        told = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise CheckpointError(f"{path} takes {told:.200}, not one float32 picture of four axes; {_KNOWN}.")
    name, shape = inputs[0].name, inputs[0].shape
    batch, *axes = (size if isinstance(size, int) else None for size in shape)
    layout: Literal["nchw", "nhwc"] = "nhwc" if axes[2] == 3 and axes[0] != 3 else "nchw"
    channels, *sides = axes if layout == "nchw" else (axes[2], *axes[:2])
    if channels not in (3, None):
        raise CheckpointError(f"{path} takes pictures of {counted(channels, 'channel')}, not of 3; {_KNOWN}.")
    candidates = [
        (height, width)
        for height, width in ((sides[0], sides[1]), *_PUBLISHED_SIZES)
        if height and width and sides[0] in (None, height) and sides[1] in (None, width)
    ]
    found: dict[tuple[int, int], dict[str, NDArray[np.floating]]] = {}
    problem = ""
    for size in candidates:
        black = np.zeros((batch or 1, *((3, *size) if layout == "nchw" else (*size, 3))), np.float32)
        try:
            values = session.run(None, {name: black})
        except Exception as error:  # onnxruntime's errors have no other class in common
            problem = _one_line(error)
        else:
            found[size] = {each.name: value for each, value in zip(session.get_outputs(), values, strict=True)}
    if not found:
        raise CheckpointError(f"{path} does not run on pictures of its own input {shape} ({problem}).")
    if len(found) > 1:
        raise CheckpointError(
            f"{path} takes pictures of any size {shape}, and does not say with which it was trained; export it again "
            "with height and width fixed."
        )
    ((size, outputs),) = found.items()
    return _Crops(name, batch, layout, size, outputs)


def _outputs(run: Mapping[str, NDArray[np.floating]], input_size: tuple[int, int], path: Path) -> _Outputs:
    height, width = input_size
    shapes = {name: values.shape[1:] for name, values in run.items()}
    found = []
    if all(len(shape) == 2 for shape in shapes.values()):
        found = [
            _Outputs((x, y), (shapes[x][0], shapes[x][1] + shapes[y][1]), shapes[x][1] // width)
            for x, y in permutations(shapes, 2)
            if len(shapes) == 2
            and shapes[x][0] == shapes[y][0]
            and shapes[x][1] * height == shapes[y][1] * width
            and shapes[x][1] % width == 0
        ]
        found.sort(key=lambda pair: pair.names[0].endswith("y"))  # which only matters for a square picture
    if len(shapes) == 1:
        ((name, shape),) = shapes.items()
        if len(shape) == 2 and shape[1] % (height + width) == 0:  # as `posecore export` writes them
            found = [_Outputs((name,), tuple(shape), shape[1] // (height + width))]
        elif len(shape) == 3 and shape[1] * width == shape[2] * height and height % shape[1] == 0:
            found = [_Outputs((name,), tuple(shape), None)]
    if not found or not all(np.issubdtype(values.dtype, np.floating) for values in run.values()):
        told = ", ".join(f"{name} {values.shape}" for name, values in run.items())
        raise CheckpointError(f"{path} gives {told:.200} for a picture of {height}×{width} (h×w); {_KNOWN}.")
    return found[0]


def _skeleton(points: int, stated: Mapping[str, Skeleton], told: _Told, path: Path) -> tuple[str, Skeleton, bool]:
    """Name of the head, its points, and whether they were guessed by their number."""
    if len(stated) > 1:
        raise CheckpointError(f"{path} has one head, but {len(stated)} are named ({', '.join(stated)}); name one.")
    guessed = False
    if stated:
        ((head, skeleton),) = stated.items()
    elif told.head is not None:
        head, skeleton = told.head
    else:
        (head,) = name_heads([points], ())
        skeleton, guessed = load_skeleton(SKELETONS[head]), points not in UNMISTAKABLE
    if skeleton.num_keypoints != points:
        raise CheckpointError(
            f"{path} finds {counted(points, 'point')}, but skeleton {skeleton.name} of {head!r} has "
            f"{skeleton.num_keypoints}; name the skeleton that it was trained on."
        )
    return head, skeleton, guessed


_CODECS = ("udp", "msra", "simcc")


def _metadata(found: Mapping[str, str], path: Path) -> _Told:
    told = {key.removeprefix(METADATA_PREFIX): text for key, text in found.items() if key.startswith(METADATA_PREFIX)}
    if "head" not in told:
        return _Told()
    try:
        values = {key: json.loads(text) for key, text in told.items()}
        lineage, codec = values["lineage"], values["codec"]
        if codec not in _CODECS:
            raise CheckpointError(
                f"{path}: its outputs are read by {codec}, and those of ONNX files as heatmaps or SimCC alone; use the "
                "model folder that it was exported from."
            )
        return _Told(
            head=(values["head"], Skeleton.model_validate(values["skeleton"])),
            channels="bgr" if values.get("layout") == "rtmlib" else "rgb",
            conventions=Conventions.model_validate(values["conventions"]),
            decoding={name: values["architecture"][name] for name in _DECODING},
            licenses={str(name): str(terms) for name, terms in values["licenses"].items()},
            record={
                "origin": lineage.get("weights"),
                "teacher": lineage.get("teacher"),
                "data": lineage.get("data"),
            },
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: what it says of itself cannot be read ({_one_line(error)}); export it again with this version."
        ) from None


def _pipeline(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What mmdeploy wrote of colours, as fields of a graph, and of crops, as fields of a head's conventions."""
    try:
        tasks = json.loads(read_at_most(path, _MAX_PIPELINE_BYTES))["pipeline"]["tasks"]
        steps = [step for task in tasks for step in task.get("transforms", ())]
        colours: dict[str, Any] = {}
        crop: dict[str, Any] = {}
        for step in steps:
            if step["type"] == "Normalize":
                colours = {name: [value / 255 for value in step[name]] for name in ("mean", "std")}
                colours["channels"] = "rgb" if step.get("to_rgb", True) else "bgr"
            if step["type"] == "TopDownGetBboxCenterScale" and "padding" in step:
                crop = {"padding": float(step["padding"])}
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} lies beside an ONNX file and is not what mmdeploy writes ({_one_line(error)}); it says how "
            "pictures are prepared, so mend it, or move it away for ImageNet's mean and deviation."
        ) from None
    return colours, crop


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
