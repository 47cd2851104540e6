"""Asks every node of a cluster what it has and what it reaches, before a job starts."""

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from posecore.cluster.network import choose_interface, no_such_interface, own_address
from posecore.errors import PreflightError
from posecore.storage import as_path
from posecore.workflows.nodes import Needs, NodeReport, faults_here, listener, mark, refuse_faults, unreached, versions

_PATIENCE_S = 120.0  # a node may have to fetch the job's code first
_WORKS = ("CPU", "GPU")


def check_nodes(needs: Needs) -> None:
    """Returns if all nodes can do a job together; a node that is alone is not asked.

    Raises:
        PreflightError: names nodes and faults.
    """
    nodes = _alive()
    if len(nodes) < 2:
        return
    folder = as_path(needs.run_folder)
    marked = mark(folder)
    try:
        refuse_faults(_reports(nodes, needs, marked), versions())
    finally:
        if isinstance(folder, Path):
            (folder / marked).unlink(missing_ok=True)


def _alive() -> dict[str, Mapping[str, Any]]:
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _reports(nodes: Mapping[str, Mapping[str, Any]], needs: Needs, marked: str) -> list[NodeReport]:
    names = {node: f"{facts['NodeManagerAddress']} ({facts['NodeManagerHostname']})" for node, facts in nodes.items()}
    asked = {
        node: ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))(
            _Node
        ).remote()
        for node in nodes
    }
    ports = _answers(asked, names, lambda node, actor: actor.listen.remote(needs.network_interface))
    said = time.time()
    clocks = _answers(asked, names, lambda node, actor: actor.clock.remote())
    heard = time.time()
    # Training processes are put where there is something to compute with, and only they talk to each other.
    talk = {node for node in ports if any(nodes[node]["Resources"].get(name) for name in _WORKS)}

    def look(node: str, actor: Any) -> Any:
        others = {names[other]: ports[other] for other in (talk - {node} if node in talk else ())}
        return actor.look.remote(needs, marked, {name: port for name, port in others.items() if port is not None})

    return [
        NodeReport(name=names[node], clock_s=_least(clocks[node] - heard, clocks[node] - said), **found)
        for node, found in _answers(asked, names, look).items()
        if node in clocks
    ]


def _answers(asked: dict[str, Any], names: Mapping[str, str], question: Callable[[str, Any], Any]) -> dict[str, Any]:
    """What each node answers; one that is lost in the meantime is asked no more.

    Raises:
        PreflightError: a node does not answer.
    """
    references = {node: question(node, actor) for node, actor in asked.items()}
    until = time.monotonic() + _PATIENCE_S
    answers = {}
    for node, reference in references.items():
        try:
            answers[node] = ray.get(reference, timeout=max(0.0, until - time.monotonic()))
        except (GetTimeoutError, RayError) as error:
            if node not in _alive():
                del asked[node]
                continue
            why = f"within {_PATIENCE_S:.0f} s" if isinstance(error, GetTimeoutError) else f"({type(error).__name__})"
            raise PreflightError(
                f"node {names[node]}: it does not answer {why}; see to it, or take it out of the cluster."
            ) from None
    return answers


def _least(low: float, high: float) -> float:
    """The number between two that is nearest to 0."""
    return max(low, min(high, 0.0))


class _Node:
    """A process on a node."""

    def __init__(self) -> None:
        self._address = ""
        self._faults: list[str] = []
        self._listener: socket.socket | None = None

    def listen(self, interface: str | None) -> tuple[str, int] | None:
        """Takes connections where a training process would; returns the address and port, None if it cannot."""
        if (fault := no_such_interface(interface)) is not None:
            self._faults.append(fault)
            return None
        choose_interface(interface)
        self._address = own_address()
        self._listener = listener(self._address)
        return self._address, self._listener.getsockname()[1]

    def clock(self) -> float:
        return time.time()

    def look(self, needs: Needs, marked: str, others: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
        """Fields of a report."""
        failed = unreached(self._address, others) if self._listener is not None else {}
        return {"versions": versions(), "faults": [*self._faults, *faults_here(needs, marked)], "unreached": failed}
