"""Which labels of the target trials learn from, and which they are judged on: whole subjects are one or the other.

Both are said as corrections of the ingested split, so that nothing is ingested twice and a trial reads its data as
every training does.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.evaluation.bootstrap import FEW_SUBJECTS
from posecore.evaluation.traits import Traits, Unit
from posecore.schema import Json
from posecore.shards.corrections import CorrectedInstance, Corrections, write_corrections
from posecore.shards.store import ShardStore, open_store
from posecore.storage import AnyPath
from posecore.tables.columns import keypoints_of
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.data_steps import Split

_FEWEST = 2  # units that are held out: of one there is no interval


@dataclass(frozen=True)
class HeldOut:
    """A split divided by subject.

    Attributes:
        learned: drops the labels of those that are held out.
        judged: drops all others.
        kind: what was held out as one: subjects, or videos or images where none are named.
        count: how many of them.
        bodies: labelled bodies among them.
    """

    learned: Corrections
    judged: Corrections
    kind: Unit
    count: int
    bodies: int

    @property
    def told(self) -> str:
        """How much was held out, and whether that is little."""
        many = f"{counted(self.count, self.kind)} of the target with {counted(self.bodies, 'labelled body')}"
        few = f"; an interval from fewer than {FEW_SUBJECTS} holds less often than it says"
        return many + (few if self.count < FEW_SUBJECTS else "")


def hold_out(store: ShardStore, share: float, seed: int) -> HeldOut:
    """Divides a split.

    Args:
        store: of the target's train split, with the corrections that training reads it with.
        share: of the subjects that are held out.
        seed: of the draw.

    Raises:
        DatasetError: there are too few subjects.
    """
    rows_of = _labelled(store)
    units = sorted(rows_of)
    kinds = sorted({kind for kind, _ in units}, key=("subject", "video", "image").index)
    count = max(_FEWEST, round(share * len(units)))
    if len(units) - count < 1:
        kind = kinds[0] if kinds else "subject"
        raise DatasetError(
            f"search: {store.manifest.dataset} {store.manifest.split} has labelled bodies of {len(units)} "
            f"{kind}{'s' * (len(units) != 1)}; at least {_FEWEST} are held out to judge strategies by and one is "
            "learned from, so label bodies of more, or name a strategy and leave out the budget."
        )
    drawn = {units[place] for place in np.random.default_rng([seed, count]).permutation(len(units))[:count]}
    held = np.concatenate([rows_of[unit] for unit in sorted(drawn)])
    rest = np.concatenate([rows_of[unit] for unit in units if unit not in drawn])
    said: dict[str, Json] = {"by": "search", "seed": seed, "held_out": count, "of": len(units)}
    return HeldOut(
        learned=_without(store, held, {**said, "keeps": "learned"}),
        judged=_without(store, rest, {**said, "keeps": "held out"}),
        kind=kinds[0],
        count=count,
        bodies=len(held),
    )


def fewer_labels(store: ShardStore, count: int, seed: int) -> Corrections:
    """Corrections that leave so many labelled bodies, of as many subjects as possible.

    Args:
        store: of the target's train split.
        count: of bodies.
        seed: of the draw.
    """
    rng = np.random.default_rng([seed, count])
    rows_of = _labelled(store)
    order = [rng.permutation(rows_of[unit]) for unit in sorted(rows_of)]
    order = [order[place] for place in rng.permutation(len(order))]
    longest = max((len(rows) for rows in order), default=0)
    by_turns = [rows[turn] for turn in range(longest) for rows in order if turn < len(rows)]
    return _without(store, np.array(by_turns[count:], np.int64), {"by": "search", "seed": seed, "labels": count})


def labels_within(settings: SearchConfig, target: Split, seed: int) -> Corrections | None:
    """What keeps a search within its labels; None where there is nothing to drop.

    Args:
        settings: of the search.
        target: its train split.
        seed: of the draw.
    """
    if settings.labels is None:
        return None
    store = open_store(target.location, corrections=target.corrections)
    if sum(map(len, _labelled(store).values())) <= settings.labels:
        return None
    return fewer_labels(store, settings.labels, seed)


def write_labels(run_folder: AnyPath, corrections: Corrections) -> str:
    """Writes what a search left out of the labels into the run's folder; returns the file."""
    path = run_folder / "search" / f"labels_{corrections.digest[:12]}.json"
    write_corrections(path, corrections)
    return str(path)


def learning_from(config: AdaptationJob, corrections: str) -> AdaptationJob:
    """The job whose target is read with a file of corrections."""
    entries = tuple(
        entry.model_copy(update={"corrections": corrections}) if entry.name == config.target else entry
        for entry in config.datasets
    )
    return config.model_copy(update={"datasets": entries})


def _labelled(store: ShardStore) -> dict[tuple[Unit, str], NDArray[np.int64]]:
    """By subject, or what stands for one, the rows of its labelled bodies."""
    units = Traits.from_store(store).units()
    rows = np.flatnonzero(store.instances["num_labelled"].to_numpy() > 0)
    found = defaultdict(list)
    for row in rows:
        found[units[row]].append(row)
    return {unit: np.array(rows, np.int64) for unit, rows in found.items()}


def _without(store: ShardStore, rows: Iterable[int], made_by: dict[str, Json]) -> Corrections:
    """Corrections that drop all labels of some bodies, beside those that the store was opened with."""
    names = store.manifest.definition.skeleton.names
    table, flags = store.instances, keypoints_of(store.instances)[..., 2]
    known = {} if store.corrections is None else {(e.image, e.instance): e for e in store.corrections.instances}
    for row in rows:
        key = (table["source_id"][int(row)].as_py(), table["instance_id"][int(row)].as_py())
        dropped = {names[point] for point in np.flatnonzero(flags[row])}
        before = set(known[key].unlabelled) if key in known else set()
        points = tuple(sorted(dropped | before, key=names.index))
        known[key] = CorrectedInstance(image=key[0], instance=key[1], unlabelled=points)
    return Corrections(
        dataset=store.manifest.dataset,
        split=store.manifest.split,
        dataset_digest=store.manifest.digest,
        made_by=made_by,
        instances=tuple(known[key] for key in sorted(known)),
    )
