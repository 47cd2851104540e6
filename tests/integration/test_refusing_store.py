"""A store that refuses in the middle of a training: one sentence, and the last whole checkpoint is gone on from."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from posecore.errors import CheckpointError
from posecore.schema import CropBatch
from posecore.storage import as_path
from posecore.training.checkpoint import step_of
from posecore.training.context import LocalContext
from tests.support.s3_server import BUCKET, REFUSALS, Line, s3_server
from tests.support.watched_training import WatchedWorker, assert_same_bits, watched_worker, write_stores

REFUSED_AT = 5  # checkpoints are written at 3, 6, 9 and 10


@dataclass(frozen=True, kw_only=True)
class Disturbed(WatchedWorker):
    """Meets a refusal at a step, with a whole checkpoint behind it."""

    line: Line
    refusal: tuple[int, str, str]

    def batches(self, stores, context, *rest) -> Iterable[CropBatch]:
        for batch in WatchedWorker.batches(self, stores, context, *rest):
            if batch.step == REFUSED_AT:
                while context.store.newest() is None:
                    time.sleep(0.05)
                self.line.refusal = self.refusal
            yield batch


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with s3_server() as (host, port), pytest.MonkeyPatch.context() as patch:
        line = Line((host, port))
        for name, value in {
            "AWS_ENDPOINT_URL": line.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_MAX_ATTEMPTS": "2",
        }.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield line
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("what", REFUSALS)
def test_the_last_whole_checkpoint_is_gone_on_from(line: Line, tmp_path: Path, what: str) -> None:
    stores = write_stores(tmp_path)
    calm = watched_worker(tmp_path / "calm", stores)
    calm(LocalContext(tmp_path / "run"))
    run = as_path(f"s3://{BUCKET}/{what}")
    (tmp_path / "disturbed").mkdir()
    changes = {"record": tmp_path / "disturbed", "line": line, "refusal": REFUSALS[what]}
    disturbed = Disturbed(**(vars(calm) | changes))
    with pytest.raises(CheckpointError, match=r"the checkpoint cannot be written \(.+\)") as caught:
        disturbed(LocalContext(run))
    assert "the one before is whole" in str(caught.value)
    assert "\n" not in str(caught.value)
    line.refusal = None
    newest = LocalContext(run).store.newest()
    assert newest is not None
    assert step_of(newest.name) == 3
    calm(LocalContext(run))
    assert_same_bits(LocalContext(tmp_path / "run").store.newest(), LocalContext(run).store.newest())
