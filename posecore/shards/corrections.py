"""Labels of an ingested split that are not to be believed: a small file beside the run, never a change of the shards.

A corrected label becomes unlabelled wherever the split is read with the corrections: its keypoint state, its flag in
the record and its instance's count of labelled points. The file names the dataset digest it was made for and is itself
named by the SHA-256 of its content, which is what lineage records.
"""

import json
from functools import cached_property
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.config import Config, digest_json, parse_config
from posecore.errors import ConfigError, DatasetError
from posecore.schema import Json, KeypointState, Record
from posecore.shards.manifest import Manifest
from posecore.skeletons.union import Vocabulary
from posecore.storage import AnyPath, as_path, write_atomically
from posecore.tables.columns import keypoints_of


class CorrectedInstance(Config):
    """Some labels of one instance.

    Attributes:
        image: source id of its image.
        instance: its annotation id.
        unlabelled: native names of the points whose labels are dropped.
    """

    image: str
    instance: str
    unlabelled: tuple[str, ...] = Field(min_length=1)


class Corrections(Config):
    """What to drop from one split.

    Attributes:
        format: of the file.
        dataset: name of the dataset definition.
        split: name of the split.
        dataset_digest: digest of the ingested split that was looked at.
        made_by: what found these labels, with its settings.
        instances: whose labels.
    """

    format: Literal["posecore-corrections-1"] = "posecore-corrections-1"
    dataset: str
    split: str
    dataset_digest: str
    made_by: dict[str, Json]
    instances: tuple[CorrectedInstance, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [(entry.image, entry.instance) for entry in self.instances]
        if len(set(ids)) != len(ids):
            doubled = next(name for name in ids if ids.count(name) > 1)
            raise ValueError(f"instances: {doubled[1]} on image {doubled[0]} is named twice; join its points.")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the values, as 64 hexadecimal digits."""
        return digest_json(self.model_dump(mode="json"))

    @cached_property
    def num_points(self) -> int:
        """Labels dropped."""
        return sum(len(entry.unlabelled) for entry in self.instances)

    @cached_property
    def _by_image(self) -> dict[str, dict[str, tuple[str, ...]]]:
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for entry in self.instances:
            found.setdefault(entry.image, {})[entry.instance] = entry.unlabelled
        return found

    def check(self, manifest: Manifest) -> None:
        """Returns if these corrections are of the given split.

        Raises:
            DatasetError: they were made for another one, or name points that its skeleton does not have.
        """
        if self.dataset_digest != manifest.digest:
            raise DatasetError(
                f"corrections of {self.dataset} {self.split} were made for dataset digest {self.dataset_digest[:12]}…, "
                f"but {manifest.dataset} {manifest.split} has {manifest.digest[:12]}…; check its labels again."
            )
        skeleton = manifest.definition.skeleton
        for entry in self.instances:
            unknown = [name for name in entry.unlabelled if name not in skeleton.names]
            if unknown:
                raise DatasetError(
                    f"corrections of {self.dataset} {self.split}, instance {entry.instance}: skeleton {skeleton.name} "
                    f"has no point {unknown[0]!r}; use its names."
                )

    def applied(self, record: Record, manifest: Manifest) -> list[tuple[int, list[int]]]:
        """Takes the labels out of a record, in place.

        Returns:
            Place within the record and native indices of the points, for every instance that lost some.
        """
        changed = []
        names = manifest.definition.skeleton.names
        of_image = self._by_image.get(record.source_id, {})
        for place, instance in enumerate(record.instances):
            points = [names.index(name) for name in of_image.get(instance.id, ())]
            if points:
                instance.keypoints[points] = 0.0
                changed.append((place, points))
        return changed

    def corrected_state(
        self, state: NDArray[np.uint8], changed: list[tuple[int, list[int]]], manifest: Manifest
    ) -> NDArray[np.uint8]:
        """(N, U) keypoint states of an image whose record lost the labels that :meth:`applied` returned."""
        if not changed:
            return state
        columns = Vocabulary(manifest.vocabulary).indices(manifest.definition.skeleton)
        corrected = state.copy()
        for place, points in changed:
            corrected[place, columns[points]] = KeypointState.UNLABELLED
        return corrected

    def dropped(self, instances: pa.Table, manifest: Manifest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,) rows of the index and (n,) native indices of the points, for every label that is dropped.

        Args:
            instances: of the index.
            manifest: of the split.

        Raises:
            DatasetError: an instance of the corrections is not in the index, or a point of it is not labelled.
        """
        of_entry = {(entry.image, entry.instance): entry.unlabelled for entry in self.instances}
        ids = zip(*(instances[name].to_pylist() for name in ("source_id", "instance_id")), strict=True)
        row_of = {key: row for row, key in enumerate(ids) if key in of_entry}
        names, flags = manifest.definition.skeleton.names, keypoints_of(instances)[..., 2]
        found = []
        for (image, instance), unlabelled in of_entry.items():
            row = row_of.get((image, instance))
            if row is None:
                raise DatasetError(
                    f"corrections of {self.dataset} {self.split}: there is no instance {instance} on image {image}; "
                    "take it out of the file."
                )
            for name in unlabelled:
                if not flags[row, names.index(name)]:
                    raise DatasetError(
                        f"corrections of {self.dataset} {self.split}, instance {instance}: {name} is not labelled, so "
                        "there is nothing to drop; take it out of the file."
                    )
                found.append((row, names.index(name)))
        rows, points = np.array(found, np.int64).reshape(-1, 2).T
        return rows, points


def write_corrections(path: AnyPath, corrections: Corrections) -> None:
    """Writes the file, whole or not at all."""
    value = {"digest": corrections.digest, **corrections.model_dump(mode="json")}
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_corrections(location: str, digest: str | None = None) -> Corrections:
    """Reads the file.

    Args:
        location: local path or any fsspec URL.
        digest: what the file must hold; None takes whatever it holds, as long as it agrees with itself.

    Raises:
        ConfigError: there is no such file, it is not one of :func:`write_corrections`, or it was changed.
    """
    path = as_path(location)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{location}: cannot be read ({error}); give a corrections file that exists.") from None
    except ValueError as error:
        raise ConfigError(f"{location}: not readable as JSON ({error}); make the corrections again.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{location}: not a corrections file, which holds an object; make the corrections again.")
    stated = value.pop("digest", None)
    corrections = parse_config(value, Corrections, origin=location)
    if stated is not None and stated != corrections.digest:
        raise ConfigError(f"{location}: was edited since it was made; remove its `digest` line if that was meant.")
    if digest is not None and digest != corrections.digest:
        raise ConfigError(f"{location}: is no longer the file the run began with; put it back or start a new run.")
    return corrections
