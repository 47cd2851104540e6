"""Whatever a pool looks like: no body on both sides, nothing lost, and the order of the files is nobody's business."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from posecore.datasets.division import take_part
from posecore.datasets.partition import PartitionConfig
from posecore.errors import DatasetError
from posecore.schema import Record
from tests.support.small_split import instance

SUBJECT = st.sampled_from([f"s{number}" for number in range(12)])
POOL = st.lists(
    st.tuples(st.lists(SUBJECT, max_size=3), st.none() | st.sampled_from([f"v{number}" for number in range(6)])),
    min_size=2,
    max_size=20,
)


def record(number, subjects, video):
    bodies = [instance(f"{number}-{n}", subject_id=subject) for n, subject in enumerate(subjects)]
    return Record(
        dataset="d", split="s", source_id=str(number), image=f"{number}.jpg", width=9, height=9, instances=bodies,
        video_id=video,
    )  # fmt: skip


def part(records, name, **chosen):
    try:
        return list(take_part(lambda: records, PartitionConfig(part=name, **chosen), "d s"))
    except DatasetError:  # an empty part is refused
        return []


def traces(records):
    """Everything by which a body could be known again."""
    return {("video", item.video_id) for item in records if item.video_id is not None} | {
        ("subject", body.subject_id) for item in records for body in item.instances
    }


@settings(max_examples=60)
@given(POOL, st.integers(0, 5), st.sampled_from([0.2, 0.5, 0.8]), st.randoms(use_true_random=False))
def test_parts_are_disjoint_whole_and_do_not_depend_on_the_order(pool, seed, share, random):
    records = [record(number, *row) for number, row in enumerate(pool)]
    chosen = {"seed": seed, "share": share}
    train, held_out = part(records, "train", **chosen), part(records, "eval", **chosen)
    assume(train and held_out)
    assert not traces(train) & traces(held_out)
    assert {item.source_id for item in [*train, *held_out]} == {item.source_id for item in records}
    assert len(train) + len(held_out) == len(records)
    shuffled = random.sample(records, len(records))
    assert {item.source_id for item in part(shuffled, "eval", **chosen)} == {item.source_id for item in held_out}


@settings(max_examples=60)
@given(POOL, POOL, st.integers(0, 5))
def test_bodies_that_come_later_move_nobody(pool, later, seed):
    records = [record(number, *row) for number, row in enumerate(pool)]
    new = [
        record(100 + number, [f"new {name}" for name in subjects], video and f"new {video}")
        for number, (subjects, video) in enumerate(later)
    ]
    before = part(records, "eval", seed=seed, share=0.5)
    after = part([*records, *new], "eval", seed=seed, share=0.5)
    assume(before)
    assert [item.source_id for item in after if int(item.source_id) < 100] == [item.source_id for item in before]
