"""A node is killed while it writes shards: the job finishes, and the shards are those of an undisturbed run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.shards.store import open_store
from tests.support.small_split import definition, records, tree

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTINGS = IngestSettings(images_per_shard=4)
NUM_IMAGES = 40

# ray.cluster_utils.Cluster handles its nodes in the main thread of a process of its own, ingestion runs beside it.
DRIVER = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from posecore.cluster.machines import RayMachines
from posecore.workflows.ingestion import ingest_split
from posecore.ingest.job import IngestSettings
from tests.support.small_split import definition, records

root, out = Path(sys.argv[1]), Path(sys.argv[2])
records(root, int(sys.argv[3]))
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
first, second = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
slow = definition(stages=["tests.cluster.test_ingest_node_loss:slow_stage"])
digests = []
job = threading.Thread(
    target=lambda: digests.append(
        ingest_split(RayMachines(), slow, "train", root, out, IngestSettings(images_per_shard=4)).digest
    )
)
job.start()
folder = out / "tiny" / "train"
while job.is_alive() and len(list(folder.glob("shard-*.json"))) < 2:
    time.sleep(0.02)
finished = len(list(folder.glob("shard-*.json")))
cluster.remove_node(second, allow_graceful=False)
cluster.add_node(num_cpus=1)
job.join(240)
print("KILLED AFTER", finished, "DIGEST", *digests, flush=True)
ray.shutdown()
cluster.shutdown()
"""


def slow_stage(record):
    """Makes a shard last long enough for its node to die while it is written."""
    import time

    time.sleep(0.15)
    return record


def test_a_killed_node_loses_and_doubles_nothing(tmp_path):
    root = tmp_path / "raw"
    records(root, NUM_IMAGES)
    slow = definition(stages=["tests.cluster.test_ingest_node_loss:slow_stage"])
    expected = ingest(ingest_job(slow, "train", root, tmp_path / "calm", SETTINGS))

    repository = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "6",
    }
    command = [sys.executable, "-c", DRIVER, str(root), str(tmp_path / "killed"), str(NUM_IMAGES)]
    done = subprocess.run(command, env=environment, cwd=repository, capture_output=True, text=True, timeout=400)
    assert "KILLED AFTER" in done.stdout, done.stderr[-4000:]
    finished = int(done.stdout.split("KILLED AFTER")[1].split()[0])
    assert 2 <= finished < len(expected.shards), "the node must die in the middle of the job"
    assert done.stdout.split("DIGEST")[1].split()[:1] == [expected.digest]
    assert tree(tmp_path / "killed" / "tiny" / "train") == tree(tmp_path / "calm" / "tiny" / "train")
    keys = open_store(tmp_path / "killed" / "tiny" / "train").images["key"].to_pylist()
    assert keys == [str(index) for index in range(NUM_IMAGES)]
