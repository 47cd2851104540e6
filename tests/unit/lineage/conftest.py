"""One SQLite store per test session: MLflow needs seconds to create one."""

from pathlib import Path

import pytest

from posecore.lineage.tracking import Tracking, TrackingConfig, connect


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture
def tracking(store_folder: Path, request: pytest.FixtureRequest) -> Tracking:
    """A fresh experiment in the shared store."""
    return connect(
        TrackingConfig(uri=f"sqlite:///{store_folder}/mlflow.db", experiment=request.node.name), store_folder
    )
