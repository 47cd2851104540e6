"""What the tables promise: a column that may be empty says so, all others never are."""

import pytest

from posecore.shards.index import IMAGE_SCHEMA, INSTANCE_SCHEMA


@pytest.mark.parametrize(
    ("schema", "may_be_empty"),
    [
        (IMAGE_SCHEMA, {"license", "video_id", "view_id", "frame_index", "source_sha256"}),
        (INSTANCE_SCHEMA, {"subject_id", "track_id", "video_id"}),
    ],
)
def test_only_what_a_source_may_not_state_can_be_empty(schema, may_be_empty):
    assert {field.name for field in schema if field.nullable} == may_be_empty
