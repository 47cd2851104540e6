"""One local Ray for all tests here: starting one takes five seconds."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray instance of this machine only, with two CPUs and no dashboard."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=256 << 20,
        logging_level="ERROR",
        log_to_driver=False,
    )
    yield
    ray.shutdown()
