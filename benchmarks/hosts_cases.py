"""What is done to the hosts of ``benchmarks/hosts.py`` while a job runs, and what becomes of the job."""

import hashlib
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from mlflow import MlflowClient
from safetensors.numpy import load

from benchmarks.hosts_cluster import TRACKING, Cluster
from benchmarks.hosts_network import Host, until
from posecore.shards.manifest import MANIFEST_NAME
from posecore.storage import AnyPath

STEPS, LOG_EVERY, CHECKPOINT_EVERY = 16, 2, 2
LIMIT_S = 900.0
COMPLAINT = re.compile(
    r"^.*(Traceback \(most recent call last\)|\] E \d+|ERROR|Exception ignored in|PlacementGroupCleaner|Preemption).*$",
    re.MULTILINE,
)
Process: TypeAlias = "subprocess.Popen[str]"


class Run:
    """A run folder, as it lies in the store."""

    def __init__(self, store: AnyPath, name: str) -> None:
        self.name = name
        self._fs = store.fs

    def files(self, ending: str = "") -> list[str]:
        """Whatever ends so."""
        self._fs.invalidate_cache()
        return sorted(path for path in self._fs.find(f"runs/{self.name}") if path.endswith(ending))

    def checkpoints(self, *, whole: bool) -> list[str]:
        """Names of those with a manifest, or of those with pieces and none."""
        paths = [path for path in self.files() if "/checkpoints/step_" in path]
        names = {path.split("/checkpoints/")[1].split("/")[0] for path in paths}
        done = {path.split("/")[-2] for path in paths if path.endswith("/manifest.json")}
        return sorted(done if whole else names - done)

    def shards(self) -> dict[str, str]:
        """By split, the digest of its manifest, which has those of all shards."""
        found = [p for p in self.files(f"/{MANIFEST_NAME}") if "/shards/" in p and "/editions/" not in p]
        return {path.split("/")[-2]: hashlib.sha256(self._fs.cat_file(path)).hexdigest() for path in found}

    def weights(self) -> bytes:
        """The model's file."""
        found = self.files("/model.safetensors")
        if len(found) != 1:
            raise RuntimeError(f"{self.name} has {len(found)} models")
        return bytes(self._fs.cat_file(found[0]))

    def curve(self) -> dict[int, float]:
        """Step to loss, as MLflow has it."""
        client = MlflowClient(TRACKING)
        (experiment,) = client.search_experiments(filter_string="name = 'posecore'")
        for run in client.search_runs([experiment.experiment_id]):
            if f"runs/{self.name}/" in run.data.params.get("run_dir", ""):
                return {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss/coco")}
        raise RuntimeError(f"MLflow has no curve of {self.name}")


Fault: TypeAlias = Callable[[Cluster, Run, Callable[[str, Callable[[], object], float], None]], str]
"""Given the cluster, the run and a way to wait for something while the job lives: does it, and says what it did."""


@dataclass(frozen=True)
class Case:
    """A job and what is done to it.

    Attributes:
        workers: hosts that are there when it begins.
        like: another case whose shards and weights must come out.
        settings: of the job's cluster.
        head: of the model.
        steps: of the training; a host takes a minute to come.
        fault: None for nothing.
        exact: whether the weights must be the same bytes; else the loss curve must be the same within rounding.
    """

    workers: int = 2
    like: str = "undisturbed"
    settings: Mapping[str, Any] | None = None
    head: str = "classic"
    steps: int = STEPS
    fault: Fault | None = None
    exact: bool = True


def _lost_when(what: str, is_so: Callable[[Run], object], interval: float) -> Fault:
    """Takes a worker host's power at some moment, and puts another host in its place."""

    def fault(cluster: Cluster, run: Run, wait: Callable[[str, Callable[[], object], float], None]) -> str:
        wait(what, lambda: is_so(run), interval)
        victim = cluster.workers[-1]
        cluster.lose(victim)
        left = (
            f"{len(run.files('.tar'))} shards, {len(run.checkpoints(whole=True))} whole checkpoints and "
            f"{len(run.checkpoints(whole=False))} begun"
        )
        return f"{victim.name} lost with {left}; {cluster.add_worker().name} took its place"

    return fault


def _shrunk_and_grown(cluster: Cluster, run: Run, wait: Callable[[str, Callable[[], object], float], None]) -> str:
    """One of three hosts is lost; two go on; another comes."""
    wait("two checkpoints", lambda: len(run.checkpoints(whole=True)) >= 2, 0.1)
    victim = cluster.workers[-1]
    cluster.lose(victim)
    wait("a checkpoint of two workers", lambda: any("_ws2_" in name for name in run.checkpoints(whole=True)), 0.1)
    other = cluster.add_worker()
    wait(
        "a checkpoint of three workers after it",
        lambda: any("_ws3_" in name for name in run.checkpoints(whole=True)),  # older ones are deleted
        0.1,
    )
    return f"{victim.name} lost, two went on, {other.name} joined and three went on"


ELASTIC = {"num_workers": 3, "min_workers": 2, "grow_interval_s": 5}
CASES = {
    "undisturbed": Case(),
    "ingestion": Case(fault=_lost_when("the first shards", lambda run: len(run.files(".tar")) > 2, 0.1)),
    "training": Case(
        fault=_lost_when("two checkpoints", lambda run: len(run.checkpoints(whole=True)) >= 2, 0.2),
    ),
    "checkpoint": Case(
        fault=_lost_when(
            "a checkpoint half written",
            lambda run: run.checkpoints(whole=True) and run.checkpoints(whole=False),
            0.0,
        )
    ),
    "fixed": Case(workers=3, like="fixed", settings={"num_workers": 3}, head="simple", steps=160),
    "elastic": Case(
        workers=3, like="fixed", settings=ELASTIC, head="simple", steps=160, fault=_shrunk_and_grown, exact=False
    ),
}


def job(name: str, case: Case) -> dict[str, Any]:
    """Its run file."""
    head = {"kind": case.head} | ({"channels": 16} if case.head == "classic" else {})
    return {
        "name": "hosts",
        "run_folder": f"s3://runs/{name}",
        "data_folder": "s3://data",
        "datasets": [{"name": "coco", "root": "coco", "train": "train", "evaluate": "val"}],
        "ingest": {"images_per_shard": 2},
        "model": {"backbone": {"preset": "vit-nano"}, "head": head, "input_size": [64, 48]},
        "training": {
            "steps": case.steps, "global_batch": 12, "log_every": LOG_EVERY, "checkpoint_every": CHECKPOINT_EVERY,
            "progress": False, "engine": {"kind": "deepspeed", "zero_stage": 3, "precision": "fp32"},
        },
        "cluster": {"num_workers": 2, "placement": "spread", **(case.settings or {})},
        "worst_cases": 1,
    }  # fmt: skip


def end_of(cluster: Cluster, store: AnyPath, name: str, case: Case) -> str:
    """Runs a case; returns a row of Markdown.

    Raises:
        RuntimeError: the job failed, or its output holds a line that nobody should have to read, or its result is
            another than it has to be.
    """
    while len(cluster.workers) < case.workers:
        cluster.add_worker()
    run, began = Run(store, name), time.monotonic()
    # The same training in another folder would be reused: what decides a result is the same.
    process = cluster.submit(name, job(name, case), "--no-reuse")
    log = cluster.folder / f"{name}.log"

    def wait(what: str, is_so: Callable[[], object], interval: float) -> None:
        def alive_and_so() -> object:
            if process.poll() is not None:
                raise RuntimeError(f"the job ended before {what}: {log.read_text()[-3000:]}")
            return is_so()

        until(what, alive_and_so, LIMIT_S, interval)

    said = case.fault(cluster, run, wait) if case.fault is not None else "nothing happened"
    process.wait(LIMIT_S)
    seconds, output = time.monotonic() - began, log.read_text()
    if process.returncode != 0:
        raise RuntimeError(f"{name} ended with {process.returncode}: {output[-3000:]}")
    if complaint := COMPLAINT.search(output):
        raise RuntimeError(f"{name} said: {complaint.group()}")
    right = Run(store, case.like)
    if run.shards() != right.shards():
        raise RuntimeError(f"{name}: other shards than {case.like}")
    if case.exact and run.weights() != right.weights():
        raise RuntimeError(f"{name}: other weights than {case.like}")
    curve, its = run.curve(), right.curve()
    if list(curve) != list(range(LOG_EVERY, case.steps + 1, LOG_EVERY)) or list(its) != list(curve):
        raise RuntimeError(f"{name}: points of the curve are {list(curve)}")
    apart = max(abs(curve[step] / its[step] - 1) for step in curve)
    if apart > (0 if case.exact else 1e-3):
        raise RuntimeError(f"{name}: the loss curve is {apart:.1e} apart from that of {case.like}")
    digest = hashlib.sha256(run.weights()).hexdigest()[:12]
    moved = _apart(load(run.weights()), load(right.weights()))
    same = f"weights {digest}" if case.exact else f"loss within {apart:.1e}, weights within {moved:.1e}"
    return f"| {name} | {said} | {seconds:.0f} | {len(run.shards())} splits, {same} |"


def _apart(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    return max(float(np.abs(ours[name].astype(np.float64) - theirs[name]).max()) for name in ours)


@dataclass(frozen=True)
class Unfit:
    """A host that cannot do its part, and what a job must say of it.

    Attributes:
        says: of the host's name, in the first lines of the job's output.
        prepare: done to its folders before it starts.
        environment: of its own.
        after: done to it once it has joined; given it and the cluster.
    """

    says: str
    prepare: str = ""
    environment: Mapping[str, str] | None = None
    after: Callable[[Host, Cluster], object] = lambda host, cluster: None


def _other_version(distribution: str) -> str:
    """Shell commands that give a host another version of an installed distribution, as far as it says."""
    return (
        f"file=$(python -c 'import importlib.metadata as m; print(m.distribution(\"{distribution}\")._path)')\n"
        "file=$file/METADATA\n"
        "sed 's/^Version: .*/Version: 0.0.1/' $file > /run/metadata && mount --bind /run/metadata $file"
    )


_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
UNFIT = {
    "another version": Unfit("deepspeed is 0.0.1 there and", prepare=_other_version("deepspeed")),
    "a wrong clock": Unfit(
        "its clock is 8[0-9] s behind",
        # Both clocks: with only one of them shifted, Python's sleep is refused by the system.
        environment={"LD_PRELOAD": _FAKETIME, "FAKETIME": "-80s"},
    ),
    "no way to the store": Unfit(
        "run_folder s3://.*", after=lambda host, _: host.run("ip route add unreachable 10.77.0.9")
    ),
    "no way to the tracking server": Unfit(
        "MLflow server http://mlflow:5000 does not answer",
        after=lambda host, _: host.run("ip route add unreachable 10.77.0.10"),
    ),
    "no way to another node": Unfit(
        "no connection to node 10.77.0.2",
        after=lambda host, cluster: host.run(f"ip route add unreachable {cluster.workers[0].address}"),
    ),
}


def refusal_of(cluster: Cluster, name: str, unfit: Unfit) -> str:
    """Adds such a host, submits a job, and takes the host away; returns a row of Markdown.

    Raises:
        RuntimeError: the job began, or did not say what is wrong with which node.
    """
    host = cluster.add_worker(unfit.prepare, dict(unfit.environment or {}))
    try:
        unfit.after(host, cluster)
        began = time.monotonic()
        word = re.sub(r"\W+", "_", name)
        process = cluster.submit(word, job(word, CASES["undisturbed"]))
        process.wait(LIMIT_S)
        output = (cluster.folder / f"{word}.log").read_text()
        found = re.search(
            rf"^.*node {re.escape(host.address)} \({host.name}\): .*{unfit.says}.*$", output, re.MULTILINE
        )
        if process.returncode == 0 or found is None:
            raise RuntimeError(f"{name}: not refused: {output[-3000:]}")
        return f"| {name} | {time.monotonic() - began:.0f} | {found.group().removeprefix('error: ')} |"
    finally:
        host.run("ray stop --force")
        cluster.lose(host)
