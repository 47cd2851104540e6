"""What the run of a step says of the contents it read and made: tags by which runs become edges of the lineage graph.

Whatever decides a step's result is among its inputs, and whatever it was made from is there by its digest. So the
digests of the inputs are the run's reads, whichever kind of step it is; nobody who adds a step can forget them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from posecore.config import digest_json
from posecore.lineage.versions.weights_use import WeightsUse
from posecore.schema import Json

READS, MAKES, FROM, RESULT = "posecore.reads.", "posecore.makes.", "posecore.from.", "posecore.result"
"""Tags: digests that were read, what was made, weights a trained model came from, digest of the step's result."""
COPY = "posecore.copy."
"""Tags: the folder of the run in which a step was finished, and another that it was copied to and used in."""
WITHDRAWN = "posecore.withdrawn"
"""Tag of a run whose record of what it wrote was removed by a withdrawal: the run of that."""
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_DIGESTS_PER_TAG = 100  # MLflow takes 8,000 characters


@dataclass(frozen=True, slots=True)
class Made:
    """A content that a step made.

    Attributes:
        kind: a split, a model's weights, a teacher's answers, a file for use elsewhere, or a page or
            picture to look at.
        digest: manifest's digest of a split, terms' digest of answers, else SHA-256 of the file.
        place: its folder or file.
    """

    kind: Literal["split", "weights", "answers", "export", "report"]
    digest: str
    place: str


def reading_tags(inputs: Json) -> dict[str, str]:
    """Tags that name every digest among a step's inputs.

    Args:
        inputs: as they are hashed into the step's fingerprint.
    """
    found = sorted(set(_DIGEST.findall(json.dumps(inputs))))
    pieces = [found[start : start + _DIGESTS_PER_TAG] for start in range(0, len(found), _DIGESTS_PER_TAG)]
    return {f"{READS}{number}": " ".join(piece) for number, piece in enumerate(pieces)}


def making_tags(result: str, made: Sequence[Made]) -> dict[str, str]:
    """Tags that name a step's result and the contents in it."""
    tags = {RESULT: result}
    for number, content in enumerate(made):
        tags[f"{MAKES}{number}"] = json.dumps([content.kind, content.digest, content.place])
    return tags


def origin_tags(weights: Iterable[WeightsUse]) -> dict[str, str]:
    """Tags of a training's run that name the weights its model came from."""
    return {f"{FROM}{number}": use.model_dump_json() for number, use in enumerate(weights)}


def reads_of(tags: Mapping[str, str]) -> list[str]:
    """The digests a run read."""
    return [digest for key, value in tags.items() if key.startswith(READS) for digest in value.split()]


def made_by(tags: Mapping[str, str]) -> Iterator[Made]:
    """The contents a run made, wherever they lie.

    Raises:
        ValueError: a tag has another form.
    """
    copies = copies_of(tags)
    for key, value in tags.items():
        if key.startswith(MAKES):
            kind, digest, place = json.loads(value)
            yield Made(kind, digest, place)
            for wrote, folder in copies:
                if place.startswith(f"{wrote}/"):
                    yield Made(kind, digest, folder + place.removeprefix(wrote))


def copy_tag(wrote: str, folder: str) -> dict[str, str]:
    """The tag of a step that was finished in a run's folder and is used where the run was copied to."""
    return {f"{COPY}{digest_json(folder)[:12]}": json.dumps([wrote, folder])}


def copies_of(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """The folder in which a step was finished, with each other that it was used in.

    Raises:
        ValueError: a tag has another form.
    """
    found = []
    for key, value in sorted(tags.items()):
        if key.startswith(COPY):
            wrote, folder = json.loads(value)
            found.append((str(wrote), str(folder)))
    return found


def origins_of(tags: Mapping[str, str]) -> list[WeightsUse]:
    """The weights that what a run trained came from.

    Raises:
        ValueError: a tag has another form.
    """
    return [WeightsUse.model_validate_json(value) for key, value in sorted(tags.items()) if key.startswith(FROM)]
