"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real annotated images in their original formats, named by the environment variable POSECORE_SAMPLES."""
    location = os.environ.get("POSECORE_SAMPLES")
    if not location:
        pytest.skip("POSECORE_SAMPLES is not set: the tests on real annotated images did not run")
    folder = Path(location)
    assert folder.is_dir(), f"POSECORE_SAMPLES={location} is not a folder"
    return folder
