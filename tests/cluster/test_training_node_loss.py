"""Nodes are asked before they train. One is killed: the job waits for another and ends with the bits of a calm run.

The calm run knows no Ray.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.watched_training import (
    STEPS,
    assert_same_bits,
    seen,
    train_undisturbed,
    watched_worker,
    write_stores,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# ray.cluster_utils.Cluster handles its nodes in the main thread of a process of its own, training runs beside it.
DRIVER = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from posecore.cluster.node_check import check_nodes
from posecore.cluster.training import train_with_ray
from posecore.errors import PreflightError
from posecore.workflows.machines import WorkersConfig
from tests.support.watched_training import seen, watched_worker

folder = Path(sys.argv[1])
stores = {name: str(folder / "shards" / name / "train") for name in ("people", "animals")}
config = WorkersConfig(num_workers=2, poll_interval_s=0.2, start_timeout_s=30)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
first, second = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
said = {}
for checked in (config, config.model_copy(update={"network_interface": "none0"})):
    try:
        check_nodes(checked.needs(folder / "run", f"sqlite:///{folder}/mlflow.db"))
        said["fit"] = [path.name for path in (folder / "run").iterdir()]
    except PreflightError as error:
        said["refused"] = str(error)
worker = watched_worker(folder / "seen_killed", stores, zero_stage=1, wait_at=4)
runs = []
job = threading.Thread(target=lambda: runs.append(train_with_ray(worker, folder / "killed", config)))
job.start()
while job.is_alive() and 4 not in seen(folder / "seen_killed"):
    time.sleep(0.05)
cluster.remove_node(second, allow_graceful=False)
said["killed_after"] = max(seen(folder / "seen_killed"))
(folder / "seen_killed" / "go").touch()
cluster.add_node(num_cpus=1)
job.join(240)
said["killed"] = [str(run.checkpoint) for run in runs]
(folder / "said.json").write_text(json.dumps(said))  # Ray writes to the streams, sometimes in the middle of a line
ray.shutdown()
cluster.shutdown()
"""


def test_a_killed_node_changes_no_bit(tmp_path: Path) -> None:
    stores = write_stores(tmp_path)
    calm = train_undisturbed(watched_worker(tmp_path / "seen_calm", stores, zero_stage=1), tmp_path / "calm")
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
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=repository, capture_output=True, text=True, timeout=400)
    assert (tmp_path / "said.json").exists(), done.stdout[-1000:] + done.stderr[-4000:]
    said = json.loads((tmp_path / "said.json").read_bytes())
    assert said["killed_after"] == 4 < STEPS - 1, "the node must die in the middle of the run"
    assert len(list((tmp_path / "seen_killed").glob("rank0_*.jsonl"))) >= 2, "the run must have started again"
    assert seen(tmp_path / "seen_killed") == seen(tmp_path / "seen_calm")
    assert said["fit"] == [], "healthy nodes are let pass, and nothing is left in the run folder"
    assert re.search(r"node .*: it has no interface 'none0'", said["refused"])
    (killed,) = said["killed"]
    assert_same_bits(calm, Path(killed))
