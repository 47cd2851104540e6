"""A Ray cluster, an object store and an MLflow server on hosts of their own, started as the cluster files say.

Ray's commands, their environment and the token come from ``ray_cluster.yaml``; the MLflow server's commands from
``infra/mlflow/``, with PostgreSQL below it. The hosts are those of ``benchmarks/hosts_network.py``.
"""

import json
import os
import re
import secrets
import subprocess
from pathlib import Path
from typing import Any

import yaml

from benchmarks.hosts_network import HOME, NETWORK, Host, until
from posecore.storage import AnyPath, as_path

REPOSITORY = Path(__file__).resolve().parents[1]
SERVERS = {"store": f"{NETWORK}.9", "mlflow": f"{NETWORK}.10"}
TRACKING = "http://mlflow:5000"
KEY, SECRET = "hosts", secrets.token_hex(12)
STORE = {
    "AWS_ENDPOINT_URL": "http://store:9000",
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}
_NO_CLOUD = {  # what Ray's autoscaler finds where `ray up` leaves a file that names a cloud
    "cluster_name": "hosts", "max_workers": 0, "upscaling_speed": 1.0, "idle_timeout_minutes": 0, "docker": {},
    "auth": {}, "provider": {"type": "readonly", "use_node_id_as_ip": True, "disable_launch_config_check": True},
    "available_node_types": {"head": {"resources": {}, "node_config": {}, "max_workers": 0}}, "head_node_type": "head",
    "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [],
    "rsync_filter": [], "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
    "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [],
}  # fmt: skip


def reach_store() -> AnyPath:
    """Has this process reach the store; returns its root."""
    os.environ |= STORE
    return as_path("s3://")


class Cluster:
    """The hosts, by name.

    Args:
        folder: logs go there.
        hosts: where started hosts are put, so that whoever made the list can end them.
        worker_cpus: of each worker host.
    """

    def __init__(self, folder: Path, hosts: list[Host], worker_cpus: int = 1) -> None:
        self.folder = folder
        self._hosts = hosts
        self._worker_cpus = worker_cpus
        self._file: dict[str, Any] = yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())
        self._token = secrets.token_hex(32)
        self._numbers = iter([*range(2, 9), *range(11, 250)])
        self.servers = self._host("servers", 9, {})
        self.servers.run(f"ip addr add {SERVERS['mlflow']}/24 dev eth0")
        self.head: Host | None = None
        self.workers: list[Host] = []

    def start(self, num_workers: int) -> None:
        """Servers, head and workers; returns when Ray knows all of them."""
        self._start_servers()
        self.start_head()
        for _ in range(num_workers):
            self.add_worker()

    def start_head(self) -> None:
        """The head, alone."""
        self.head = self._host("head", 1, self._environment("head"))
        self._log_in(self.head)
        self.head.write(f"{HOME}/ray_bootstrap_config.yaml", yaml.safe_dump(_NO_CLOUD))
        self._start_ray(self.head, "head_start_ray_commands")

    def add_worker(self, prepare: str = "", environment: dict[str, str] | None = None) -> Host:
        """Another host, with an address that no other had.

        Args:
            prepare: see :class:`~benchmarks.hosts_network.Host`.
            environment: of its own beside what all have.
        """
        number = next(self._numbers)
        name = f"worker-{number}"
        host = self._host(name, number, self._environment("gpu") | (environment or {}), prepare)
        try:
            self._log_in(host)
            self._start_ray(host, "worker_start_ray_commands")
            until(f"{name} in the cluster", lambda: self.knows(host), 120)
        except (RuntimeError, TimeoutError):
            host.lose_power()  # half started, it would take part
            raise
        self.workers.append(host)
        return host

    def lose(self, host: Host) -> None:
        """Its power fails."""
        host.lose_power()
        self.workers.remove(host)

    def knows(self, host: Host) -> bool:
        """Whether Ray takes a host for alive."""
        said = self.on_head(
            "python -c \"import ray; ray.init('auto', logging_level='ERROR', log_to_driver=False); "
            "print([n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']])\""
        )
        return f"'{host.address}'" in said

    def on_head(self, command: str, timeout: float = 120) -> str:
        """What a command says on the head."""
        assert self.head is not None
        return self.head.run(command, timeout)

    def submit(self, name: str, values: dict[str, Any], arguments: str = "") -> "subprocess.Popen[str]":
        """The main job by ``ray job submit``, as ``docs/clusters.md`` says; its output goes to ``<name>.log``."""
        assert self.head is not None
        self.head.write(f"{HOME}/{name}.yaml", yaml.safe_dump(values))
        environment = {
            "excludes": ["data/", "runs/", "demo/", ".env", "docs/", "tests/"],
            "env_vars": {"MLFLOW_TRACKING_URI": TRACKING},
        }
        command = (
            f"ray job submit --address http://127.0.0.1:8265 --working-dir {REPOSITORY} "
            f"--runtime-env-json '{json.dumps(environment)}' -- "
            f"python pipelines/multidataset_train.py --config {HOME}/{name}.yaml {arguments}"
        )
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        return self.head.popen(command, log)

    def _host(self, name: str, number: int, environment: dict[str, str], prepare: str = "") -> Host:
        host = Host(name, number, environment, prepare)
        self._hosts.append(host)
        host.start(SERVERS)
        return host

    def _environment(self, node_type: str) -> dict[str, str]:
        options = self._file["docker"]["run_options"]
        named = dict(word.removeprefix("--env ").split("=", 1) for word in options if word.startswith("--env "))
        resources = dict(self._file["available_node_types"][node_type]["resources"])
        if node_type == "gpu":
            resources = {"CPU": self._worker_cpus}
        # As `ray up` sets them for the commands of the file.
        up = {"RAY_OVERRIDE_RESOURCES": json.dumps(resources), "RAY_HEAD_IP": f"{NETWORK}.1"}
        return STORE | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"} | named | up

    def _log_in(self, host: Host) -> None:
        for there, here in self._file["file_mounts"].items():
            assert here == "~/.ray/auth_token", here
            host.write(there, self._token)
            host.run(f"chmod 600 {there}")

    def _start_ray(self, host: Host, commands: str) -> None:
        for command in self._file[commands]:
            if " start " in command:
                command += " --object-store-memory=100000000"
            said = host.run(command)
            (self.folder / f"{host.name}.log").open("a").write(f"$ {command}\n{said}\n")

    def _start_servers(self) -> None:
        servers, log = self.servers, self.folder / "servers.log"
        servers.popen("moto_server -H 0.0.0.0 -p 9000", self.folder / "store.log")
        password = secrets.token_hex(12)
        for name, value in {"postgres_password": password, "store_user": KEY, "store_password": SECRET}.items():
            servers.write(f"/run/secrets/{name}", value)
        binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
        servers.run(
            "install -d -m 700 -o postgres -g postgres /tmp/database && install -d -o postgres /run/postgresql && "
            "install -m 600 -o postgres /run/secrets/postgres_password /tmp/password"
        )
        servers.run(
            f"{binaries}/initdb -D /tmp/database -U mlflow --pwfile=/tmp/password --auth=scram-sha-256",
            as_user="postgres",
        )
        servers.popen(
            f"{binaries}/postgres -D /tmp/database -c listen_addresses=127.0.0.1 -c fsync=off", log, as_user="postgres"
        )
        until(
            "PostgreSQL's start", lambda: "ok" in servers.run(f"{binaries}/pg_isready -h 127.0.0.1 && echo ok || :"), 30
        )
        servers.run(f"PGPASSWORD={password} {binaries}/createdb -h 127.0.0.1 -U mlflow mlflow")
        compose = yaml.safe_load((REPOSITORY / "infra" / "mlflow" / "compose.yaml").read_text())["services"]["mlflow"]
        settings = {**compose["environment"], "POSTGRES_HOST": "127.0.0.1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        servers.environment = {**STORE, **settings}
        words = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in compose["command"]]
        entry = f"sh {REPOSITORY}/infra/mlflow/entrypoint.sh"
        until(
            "the store's start",
            lambda: "ok" in servers.run("curl -s -o /dev/null http://store:9000 && echo ok || :"),
            60,
        )
        servers.run(f"{entry} python {REPOSITORY}/infra/mlflow/prepare.py", timeout=180)
        servers.popen(f"{entry} {' '.join(words)} --workers=1", log)
        health = "curl -s -f http://mlflow:5000/health && echo ' ok' || :"
        until("the MLflow server's start", lambda: " ok" in servers.run(health), 120)
