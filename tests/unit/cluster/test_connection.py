"""What is said of a cluster that is not there."""

import os
import sys

import pytest

from posecore.cluster.connection import connect_to_ray
from posecore.errors import PreflightError


def test_an_address_without_a_cluster_is_refused_before_ray_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("RAY_COLOR_PREFIX", "")
    monkeypatch.delenv("RAY_COLOR_PREFIX")
    assert not sys.stderr.isatty()
    with pytest.raises(PreflightError, match=r"RAY_ADDRESS 127\.0\.0\.1:9: no cluster answers there \(.*refused"):
        connect_to_ray()
    assert os.environ["RAY_COLOR_PREFIX"] == "0", "a file has no colours"
