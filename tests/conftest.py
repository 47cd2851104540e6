"""Fixtures every test may use."""

import gc
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from posecore.asides import aside_file

# The same examples every time, on machines of any speed: a test that fails now and then tells nothing.
settings.register_profile(
    "posecore", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("posecore")

if TYPE_CHECKING:
    from posecore.lineage.store.tracking import Tracking


@pytest.fixture(autouse=True)
def _no_store_left_behind() -> Iterator[None]:
    """A test that leaves MLflow pointed at its store would have every later job record there."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    assert os.environ.get("MLFLOW_TRACKING_URI") == before, "MLFLOW_TRACKING_URI is not what it was before this test"


@pytest.fixture(scope="session", autouse=True)
def _tables_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stores that tests make are copies of an empty one, whose tables take MLflow more than a second of processor."""
    tracking = sys.modules.get("posecore.lineage.store.tracking")
    if tracking is None:  # so that tests that record nothing do not import MLflow
        yield
        return
    from posecore.lineage.store.sqlite_store import create_store, give_name

    empty = tmp_path_factory.mktemp("empty") / "mlflow.db"

    def copied(path: Path) -> None:
        if not empty.exists():
            create_store(empty)
        with aside_file(path.parent, ".db") as aside:
            shutil.copyfile(empty, aside)
            give_name(aside, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "create_store", copied)
        yield


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real annotated images in their original formats, named by the environment variable POSECORE_SAMPLES."""
    location = os.environ.get("POSECORE_SAMPLES")
    if not location:
        pytest.skip("POSECORE_SAMPLES is not set: the tests on real annotated images did not run")
    folder = Path(location)
    assert folder.is_dir(), f"POSECORE_SAMPLES={location} is not a folder"
    return folder


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tracking store that lineage tests share: MLflow needs seconds to create one."""
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture
def tracking(store_folder: Path, request: pytest.FixtureRequest) -> "Tracking":
    """A fresh experiment in the shared SQLite store; models are shared, so tests name theirs by the experiment."""
    from posecore.lineage.store.tracking import TrackingConfig, connect

    config = TrackingConfig(
        uri=f"sqlite:///{store_folder}/mlflow.db", experiment=re.sub(r"\W+", "-", request.node.name)
    )
    return connect(config, store_folder)


@pytest.fixture
def this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are done by this process, as by one that torchrun started: for what Ray has no part in."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")


@pytest.fixture(scope="module")
def local_ray() -> None:
    """A Ray instance of this machine only, with two CPUs and no dashboard: it takes five seconds, so files share it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=256 << 20,
            logging_level="ERROR",
            log_to_driver=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Has the collector of garbage pass over modules and tests, a million objects, now and from here on."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def _end_ray() -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ends the shared Ray before the folders of tests that use none: its processes are busy even when idle."""
    if item.path.relative_to(Path(__file__).parent).parts[0] in ("parity", "property", "unit"):
        _end_ray()


def pytest_sessionfinish() -> None:
    _end_ray()
