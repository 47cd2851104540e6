"""One pool of images divided into a part to train on and a part to judge on, so that no body is on both sides.

Frames of one body are nearly equal: a model judged on other frames of the bodies it was trained on is judged on what it
remembers. So whole groups are assigned, never frames. A group is everything that shares a subject or a video, directly
or through others; a video whose subjects are not named stands for its subject. Which part a group falls into is a hash
of its name and the seed and of nothing else: not of the order of the files, and not of the other groups, so bodies that
are added later never move those that were there.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from posecore.counting import counted
from posecore.datasets.partition import PartitionConfig
from posecore.errors import DatasetError
from posecore.nearest import did_you_mean
from posecore.schema import Record, Reject


def take_part(
    read: Callable[[], Iterable[Record | Reject]], config: PartitionConfig, where: str
) -> Iterator[Record | Reject]:
    """The records of one part, in their order, and the rejects that belong to them.

    The pool is gone through twice: once for its names, of which columns are kept, and once for its records.

    Args:
        read: gives what a reader yields of the whole pool, the same each time.
        config: which part.
        where: dataset and split, for messages.

    Raises:
        DatasetError: as :func:`sides`.
    """
    images, bodies, rejects = _names_of(read())
    of_images, of_rejects = (iter(side.tolist()) for side in sides(images, bodies, rejects, config, where))
    for item in read():
        if next(of_images if isinstance(item, Record) else of_rejects):
            yield item


def sides(
    images: pl.DataFrame, bodies: pl.DataFrame, rejects: pl.DataFrame, config: PartitionConfig, where: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images and rejects of a pool belong to a part.

    A rejected instance follows its image; any other reject is dealt out by its place in the source, so that each is
    counted in one of the parts.

    Args:
        images: ``source_id``, ``image`` and ``video_id`` of each.
        bodies: ``image_row``, ``subject_id`` and ``is_crowd`` of each.
        rejects: ``source_id`` and ``source`` of each.
        config: which part.
        where: dataset and split, for messages.

    Raises:
        DatasetError: by frame although subjects or videos are known; by subject although an image states neither; a
            named subject is nowhere, or shares a picture or a video with one that is not named; or the part is empty.
    """
    images = images.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    names = _names(images, bodies)
    if config.by == "frame":
        _refuse_known(images, names, config, where)
        groups = images.select("row", kind=pl.lit("image"), name="source_id")
    else:
        groups = _groups(images, bodies, names, where)
    distinct = groups.select("kind", "name").unique(maintain_order=True)
    if config.subjects:
        in_eval = _hold_named(distinct, _members(groups, bodies), config.subjects, where)
    else:
        in_eval = [_position(config.seed, kind, name) < config.share for kind, name in distinct.iter_rows()]
    wanted = config.part == "eval"
    if images.height and wanted not in in_eval:
        raise DatasetError(_nothing_there(config, distinct.sort("kind", "name"), images.height, where))
    side = groups.join(distinct.with_columns(side=pl.Series(in_eval, dtype=pl.Boolean)), ["kind", "name"])
    of_images = images.select("row", "source_id").join(side.select("row", "side"), "row", maintain_order="left")
    of_image = of_images.select("source_id", "side").unique("source_id", keep="last")
    followed = rejects.join(of_image, "source_id", how="left", maintain_order="left")
    of_rejects = [
        (not config.subjects and _position(config.seed, "image", f"{source_id}\0{source}") < config.share)
        if own is None
        else own
        for source_id, source, own in followed.select("source_id", "source", "side").iter_rows()
    ]
    return of_images["side"].to_numpy() == wanted, np.array(of_rejects, np.bool_) == wanted


_ITEMS_AT_ONCE = 10_000
_IMAGE_NAMES = pl.Schema({"source_id": pl.String(), "image": pl.String(), "video_id": pl.String()})
_BODY_NAMES = pl.Schema({"image_row": pl.Int64(), "subject_id": pl.String(), "is_crowd": pl.Boolean()})
_REJECT_NAMES = pl.Schema({"source_id": pl.String(), "source": pl.String()})


def _names_of(items: Iterable[Record | Reject]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """What a reader yields as columns of names."""
    schemas = (_IMAGE_NAMES, _BODY_NAMES, _REJECT_NAMES)
    images, bodies, rejects = ([pl.DataFrame(schema=schema)] for schema in schemas)
    first_row = 0
    left = iter(items)
    while some := list(islice(left, _ITEMS_AT_ONCE)):
        records = [item for item in some if isinstance(item, Record)]
        of_images = [(record.source_id, record.image, record.video_id) for record in records]
        of_bodies = [
            (row, body.subject_id, body.is_crowd)
            for row, record in enumerate(records, start=first_row)
            for body in record.instances
        ]
        of_rejects = [(item.source_id, item.source) for item in some if isinstance(item, Reject)]
        images.append(pl.DataFrame(of_images, _IMAGE_NAMES, orient="row"))
        bodies.append(pl.DataFrame(of_bodies, _BODY_NAMES, orient="row"))
        rejects.append(pl.DataFrame(of_rejects, _REJECT_NAMES, orient="row"))
        first_row += len(records)
    return pl.concat(images), pl.concat(bodies), pl.concat(rejects)


def _refuse_known(images: pl.DataFrame, names: pl.DataFrame, config: PartitionConfig, where: str) -> None:
    known = names["row"].n_unique()
    if known and not config.force_frame_split:
        raise DatasetError(
            f"{where}: {known} of {counted(images.height, 'image')} state a subject or a video, so a split by frame "
            "would judge a model on bodies it was trained on; take `by: subject`, or insist with `force_frame_split: "
            "true`, which is recorded."
        )


def _names(images: pl.DataFrame, bodies: pl.DataFrame) -> pl.DataFrame:
    """What ties images to others, a row per image and name: subjects and videos."""
    subjects = bodies.filter(~pl.col("is_crowd") & pl.col("subject_id").is_not_null())
    videos = images.filter(pl.col("video_id").is_not_null())
    return pl.concat(
        [
            subjects.select(row="image_row", kind=pl.lit("subject"), name="subject_id"),
            videos.select("row", kind=pl.lit("video"), name="video_id"),
        ]
    )


def _groups(images: pl.DataFrame, bodies: pl.DataFrame, names: pl.DataFrame, where: str) -> pl.DataFrame:
    """Row, and the name of the group, of each image: everything connected through shared subjects and videos.

    An image that shows nobody, of no video, is alone.
    """
    alone = images.join(names, "row", how="anti", maintain_order="left")
    shown = bodies.filter(~pl.col("is_crowd")).select(row="image_row").unique()
    nameless = alone.join(shown, "row", how="semi", maintain_order="left")
    if nameless.height:
        raise DatasetError(
            f"{where}: {nameless.height} of {counted(images.height, 'image')}, the first {nameless['image'][0]}, state "
            "neither a subject nor a video, so nobody can say whether two of them show one body; name the subjects "
            "(`subjects:` in the definition, or subject_id in the annotations), or take `by: frame` if each shows "
            "another body."
        )
    names = pl.concat([names, alone.select("row", kind=pl.lit("image"), name="source_id")])
    known = names.select("kind", "name").unique(maintain_order=True).with_row_index("place")
    ties = names.join(known, ["kind", "name"], maintain_order="left")
    rows, places = ties["row"].to_numpy(), ties["place"].to_numpy().astype(np.int64) + images.height
    size = images.height + known.height
    _, group = connected_components(coo_array((np.ones(len(rows), np.bool_), (rows, places)), (size, size)), False)
    leaders = _leaders(known, group[images.height :])
    return images.select("row", group=pl.Series(group[: images.height])).join(leaders, "group", maintain_order="left")


def _leaders(names: pl.DataFrame, groups: NDArray[np.int32]) -> pl.DataFrame:
    """Who speaks for each group: a subject if there is one, so that further videos of it change nothing."""
    hashes = [hashlib.sha256(f"{kind}\0{name}".encode()).digest() for kind, name in names["kind", "name"].iter_rows()]
    ranked = names.with_columns(group=pl.Series(groups), hash=pl.Series(hashes, dtype=pl.Binary))
    return (
        ranked.sort(pl.col("kind") != "subject", "hash").unique("group", keep="first").select("group", "kind", "name")
    )


def _members(groups: pl.DataFrame, bodies: pl.DataFrame) -> pl.DataFrame:
    """Kind and name of each group, and ``member``: a subject of it."""
    subjects = bodies.filter(~pl.col("is_crowd") & pl.col("subject_id").is_not_null())
    of_rows = subjects.select(row="image_row", member="subject_id").unique()
    return groups.join(of_rows, "row").select("kind", "name", "member").unique().sort("kind", "name", "member")


def _hold_named(groups: pl.DataFrame, members: pl.DataFrame, named: Sequence[str], where: str) -> list[bool]:
    """Of each group, whether its subjects are the named ones."""
    known = members["member"].to_list()
    if unknown := sorted(set(named) - set(known)):
        raise DatasetError(
            f"{where}: partition.subjects names {unknown[0]!r}, and nobody in the {counted(members.height, 'subject')} "
            f"of the pool is called that.{did_you_mean(unknown[0], known)}"
        )
    listed = members.with_columns(is_named=pl.col("member").is_in(sorted(set(named))))
    by_group = listed.group_by("kind", "name", maintain_order=True)
    mixed = by_group.agg(
        inside=pl.col("member").filter("is_named").first(), outside=pl.col("member").filter(~pl.col("is_named")).first()
    ).drop_nulls()
    if mixed.height:
        raise DatasetError(
            f"{where}: partition.subjects names {mixed['inside'][0]!r} and not {mixed['outside'][0]!r}, but "
            "pictures or videos tie the two together, so they cannot be on two sides; name both, or neither."
        )
    sides = groups.join(
        by_group.agg(side=pl.col("is_named").all()), ["kind", "name"], how="left", maintain_order="left"
    )
    return sides["side"].fill_null(False).to_list()


def _position(seed: int, kind: str, name: str) -> float:
    """A fixed point of [0, 1) for each seed and name."""
    digest = hashlib.sha256(f"partition\0{seed}\0{kind}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _nothing_there(config: PartitionConfig, groups: pl.DataFrame, num_images: int, where: str) -> str:
    if groups.height == 1:
        ((kind, name),) = groups.rows()
        return (
            f"{where}: all {counted(num_images, 'image')} belong together (through {kind} {name}), and one body cannot "
            "be on both sides; add other subjects, or insist on `by: frame` with `force_frame_split: true`, which is "
            "recorded."
        )
    if config.subjects:
        return f"{where}: partition.subjects names everybody, so nobody is left to train on."
    return (
        f"{where}: with share {config.share:g}, seed {config.seed} puts none of the {counted(groups.height, 'group')} "
        f"into {config.part}; choose another seed or share."
    )
