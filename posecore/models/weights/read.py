"""Any published checkpoint becomes a model: found, opened safely, translated, fitted to a preset, and documented."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from posecore.config import digest_json
from posecore.counting import counted
from posecore.errors import CheckpointError
from posecore.models.architecture import ModelCard
from posecore.models.catalog import CATALOG, PublishedModel, find
from posecore.models.pose_model import PoseModel, build_from
from posecore.models.presets import PRESETS
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE, holds_model, load_model
from posecore.models.weights.files import INDEX_SUFFIX, read_tensors, shard_names
from posecore.models.weights.fit import check_backbone, fit
from posecore.models.weights.hub import HubName, download, parse_hub_name
from posecore.models.weights.layout import CONFIG_FILE, Layout, Translated, without_heads
from posecore.models.weights.layouts import LAYOUTS
from posecore.models.weights.onnx_file import ONNX_LAYOUT, SUFFIX, UNSTATED, checksum_onnx, read_onnx
from posecore.models.weights.published_heads import UNMISTAKABLE
from posecore.nearest import did_you_mean
from posecore.schema import Json
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import read_at_most, sha256_of

_MAX_CONFIG_BYTES = 1 << 20
_GUESSED = "guessed_heads"


@dataclass(frozen=True, slots=True)
class Located:
    """Weights on this machine.

    Attributes:
        path: a file, the index of a sharded one, or a folder that holds a whole model of ours.
        revision: commit on the hub, None for local files.
        published: row of the catalog, if they were asked for by its name.
    """

    path: Path
    revision: str | None = None
    published: PublishedModel | None = None


def read_weights(
    source: str | Path,
    expect: str | None = None,
    skeletons: Mapping[str, Skeleton] | None = None,
    revision: str | None = None,
    backbone_only: bool = False,
    license_id: str | None = None,
) -> PoseModel:
    """Reads a published checkpoint, an ONNX file, or a model of ours, whatever its layout.

    Args:
        source: a local file or folder; a name of :data:`~posecore.models.catalog.CATALOG`; or a place on the Hugging
            Face hub, ``organisation/name[@revision][:file]``.
        expect: preset or catalog name the weights must be of; None takes whichever preset fits.
        skeletons: by dataset, in the order of the file's heads, where they are not the published ones.
        revision: branch, tag or commit on the hub, if the source does not say.
        backbone_only: leave out the file's heads, whatever their points are.
        license_id: terms of a file that is neither published nor states any.

    Returns:
        The model in evaluation mode. ``card.lineage["weights"]`` says where it came from, what was left out and under
        which terms; ``card.licenses`` names the terms.

    Raises:
        CheckpointError: there are no such weights, the file could run code or is damaged, its layout or a tensor is
            unknown, or it is not what was expected; one sentence each.
        IntegrityError: a file is not the one that was written.
    """
    return read_located(locate(source, revision), str(source), expect, skeletons, backbone_only, license_id)


def read_located(
    located: Located,
    source: str,
    expect: str | None = None,
    skeletons: Mapping[str, Skeleton] | None = None,
    backbone_only: bool = False,
    license_id: str | None = None,
) -> PoseModel:
    """Reads weights that are on this machine.

    Args:
        located: where.
        source: how they were named, for the records.
        expect: see :func:`read_weights`.
        skeletons: likewise.
        backbone_only: likewise.
        license_id: likewise.

    Raises:
        CheckpointError: see :func:`read_weights`.
        IntegrityError: likewise.
    """
    if expect is not None and expect not in PRESETS:
        located = replace(located, published=find(expect))
    published = located.published
    preset = expect if expect in PRESETS else published.preset if published else None
    if located.path.is_dir():
        model = load_model(located.path)
        if preset is not None:
            check_backbone(model, preset, source)
        if backbone_only:
            raise CheckpointError(
                f"{source} is a model of ours; what a run takes of it is said by weights: {{take: ...}}."
            )
        return model
    if located.path.suffix == SUFFIX:
        if expect is not None or backbone_only:
            raise CheckpointError(f"{source} is an ONNX file: of no preset, and without a backbone of its own.")
        return _read_onnx(located, source, skeletons or {}, license_id)
    tensors = read_tensors(located.path)
    layout = recognise(tensors, located.path)
    left_out: dict[str, str] = {}
    if backbone_only:
        tensors, left_out = without_heads(tensors)
    stated = skeletons or (published.card().skeletons if published and not backbone_only else {})
    heads = tuple(stated) or (() if backbone_only else layout.states(_config_beside(located.path)))
    translated = _translated(layout, tensors, heads, located.path)
    fitted = fit(translated, layout, source, preset, stated)
    license_id = published.license_id if published else license_id or _terms(layout, tuple(translated.heads))
    provenance: dict[str, Json] = {
        "source": source,
        "revision": located.revision,
        "sha256": checksum(located.path),
        "layout": layout.name,
        "preset": fitted.preset,
        "license": license_id,
        "dropped": {**translated.dropped, **left_out},
    }
    if not heads and len(translated.heads) == 1 and UNMISTAKABLE.isdisjoint(translated.heads.values()):
        provenance[_GUESSED] = dict(translated.heads)
    name = published.name if published else source
    card = fitted.card.model_copy(update={"licenses": {name: license_id}, "lineage": {"weights": provenance}})
    return build_from(card, translated.tensors)


def _read_onnx(located: Located, source: str, skeletons: Mapping[str, Skeleton], license_id: str | None) -> PoseModel:
    found = read_onnx(located.path, skeletons)
    terms = ", ".join(sorted(set(found.card.licenses.values()))) or license_id or UNSTATED
    provenance: dict[str, Json] = {
        "source": source,
        "revision": located.revision,
        "sha256": checksum(located.path),
        "layout": ONNX_LAYOUT,
        "preset": None,
        "license": terms,
        **found.record,
    }
    if found.guessed:
        provenance[_GUESSED] = dict(found.guessed)
    licenses = found.card.licenses or {source: terms}
    card = found.card.model_copy(update={"licenses": licenses, "lineage": {"weights": provenance}})
    return build_from(card, found.tensors)


def guessed_heads(card: ModelCard) -> dict[str, int]:
    """Number of points by head of a file whose skeleton was guessed from that number, and is to be confirmed."""
    record = card.lineage.get("weights")
    guessed = record.get(_GUESSED) if isinstance(record, dict) else None
    return {str(name): int(str(count)) for name, count in guessed.items()} if isinstance(guessed, dict) else {}


def locate(source: str | Path, revision: str | None = None) -> Located:
    """Finds weights: on this machine first, then in the catalog, then on the hub.

    Args:
        source: see :func:`read_weights`.
        revision: likewise.

    Raises:
        CheckpointError: nothing is there, or nothing that could be weights.
    """
    path = Path(source)
    if path.is_file():
        return Located(path)
    if path.is_dir():
        return Located(_weights_in(path))
    if str(source) in CATALOG:
        return _locate_published(CATALOG[str(source)], revision)
    name = refuse_nowhere(source)
    assert name is not None
    found = download(replace(name, revision=name.revision or revision))
    return Located(found.path, found.commit)


def refuse_nowhere(source: str | Path) -> HubName | None:
    """Returns the place on the hub that a source names, None for anything nearer; downloads nothing.

    Raises:
        CheckpointError: it can be nowhere.
    """
    path = Path(source)
    if path.exists() or str(source) in CATALOG:
        return None
    name = parse_hub_name(str(source))
    if name is None:
        raise CheckpointError(
            f"{source} is no file or folder here, no published model (posecore models list) and no place on the hub "
            f"(organisation/name[@revision][:file]).{did_you_mean(source, [*CATALOG, *_beside(path)])}"
        )
    return name


def _beside(path: Path) -> list[str]:
    """Of files and folders that lie where a path says, the paths."""
    return [str(path.parent / each.name) for each in path.parent.iterdir()] if path.parent.is_dir() else []


def _locate_published(model: PublishedModel, revision: str | None) -> Located:
    if model.hub is None:
        raise CheckpointError(
            f"{model.name} must be downloaded by hand, {model.file or 'a file'} by way of {model.homepage}; then name "
            f"that file in its place, a command also --expect {model.name}."
        )
    found = download(HubName(model.hub, revision, model.file))
    return Located(found.path, found.commit, model)


def _weights_in(folder: Path) -> Path:
    if holds_model(folder):
        return folder
    for pattern in (f"*{INDEX_SUFFIX}", "*.safetensors", f"*{SUFFIX}"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"{folder} holds {counted(len(found), 'file')} of weights, such as {found[0].name}; name one."
            )
    raise CheckpointError(
        f"{folder} holds neither {CARD_FILE} nor safetensors weights nor an ONNX file; name a file in it."
    )


def recognise(tensors: Mapping[str, Tensor], origin: Path) -> Layout:
    """The layout whose names these are.

    Raises:
        CheckpointError: none of ours.
    """
    for layout in LAYOUTS.values():
        if layout.recognises(tensors):
            return layout
    raise CheckpointError(
        f"{origin} has a layout we do not know: its tensors are called {', '.join(sorted(tensors)[:3])} …; known are "
        f"{', '.join(LAYOUTS)}."
    )


def _translated(layout: Layout, tensors: Mapping[str, Tensor], datasets: Sequence[str], origin: Path) -> Translated:
    try:
        return layout.read(tensors, datasets)
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        # Layouts read widths off tensors and join some: one without the axes it should have fails wherever it is used.
        raise CheckpointError(
            f"{origin} looks like {layout.name}, but has tensors of shapes that no such file has ({error}); it is "
            "damaged or of another family."
        ) from error


def _config_beside(path: Path) -> Mapping[str, Any]:
    """What the ``config.json`` in the folder of weights holds; nothing if there is none that can be read."""
    try:
        value = json.loads(read_at_most(path.parent / CONFIG_FILE, _MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _terms(layout: Layout, heads: tuple[str, ...]) -> str:
    """Terms of a file that nobody named: those of all published models with these heads, if they agree."""
    terms = {row.license_id for row in CATALOG.values() if (row.layout, row.heads) == (layout.name, heads)}
    return terms.pop() if len(terms) == 1 else layout.license


def checksum(path: Path) -> str:
    """SHA-256 of the weights: of the file, or over the hashes of a sharded one's files by name."""
    if path.is_dir():
        return sha256_of(path / WEIGHTS_FILE)
    if path.suffix == SUFFIX:
        return checksum_onnx(path)
    if not path.name.endswith(INDEX_SUFFIX):
        return sha256_of(path)
    return digest_json({name: sha256_of(path.parent / name) for name in shard_names(path)})
