"""What every node of a cluster is asked before a job starts, and what is wrong with the answers.

A node with another version, a wrong clock, or without a way to the store shows late otherwise: as an error in the
middle of a training, as a group of processes that waits for ever, or as other numbers.
"""

import importlib.metadata
import platform
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from posecore.errors import PoseCoreError, PreflightError
from posecore.lineage.code.version import source_digest
from posecore.lineage.store.reachable import check_reachable
from posecore.storage import AnyPath, as_path, make_writable, write_atomically

CLOCK_TOLERANCE_S = 5.0
"""Machines that keep time by a server differ by milliseconds. Stores refuse requests that are minutes off."""
_DISTRIBUTIONS = ("torch", "ray", "deepspeed")
_PATIENCE_S = 30.0
_CONNECT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job wants of every node.

    Attributes:
        run_folder: the node must be able to write there.
        tracking: URI of the store that must answer.
        network_interface: what training processes are to talk over; None for that of the node's address.
    """

    run_folder: str
    tracking: str
    network_interface: str | None = None


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node said.

    Attributes:
        name: what a person finds it by.
        versions: by name, of what must be the same everywhere.
        clock_s: how far its clock is ahead of the driver's, the nearest to 0 that it can be.
        faults: sentences about it, without its name.
        unreached: by name of another node, why no connection to it could be opened.
    """

    name: str
    versions: Mapping[str, str]
    clock_s: float = 0.0
    faults: Sequence[str] = ()
    unreached: Mapping[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Of this process, what all processes of a job must have in common."""
    found = {"Python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found | {"posecore's code": source_digest()[:12]}


def refuse_faults(reports: Iterable[NodeReport], driver: Mapping[str, str]) -> None:
    """Returns if the nodes can do a job together.

    Args:
        reports: of all nodes.
        driver: what :func:`versions` says of the driver.

    Raises:
        PreflightError: a sentence for each fault, with the nodes that have it.
    """
    nodes: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        for fault in _faults(report, driver):
            nodes[fault].append(report.name)
    if nodes:
        raise PreflightError("\n".join(f"node {_listed(names)}: {fault}" for fault, names in nodes.items()))


def _faults(report: NodeReport, driver: Mapping[str, str]) -> Iterable[str]:
    for name, own in driver.items():
        if (other := report.versions.get(name, own)) != own:
            yield f"{name} is {other} there and {own} where the job was submitted; give all nodes the same image."
    if abs(report.clock_s) > CLOCK_TOLERANCE_S:
        side = "ahead of" if report.clock_s > 0 else "behind"
        yield (
            f"its clock is {abs(report.clock_s):.0f} s {side} that of the node the job was submitted to; have both "
            "keep time by the same server (NTP)."
        )
    yield from report.faults
    for other, why in report.unreached.items():
        yield (
            f"no connection to node {other} ({why}); open the ports between the nodes, or name the network that they "
            "share in cluster.network_interface."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def mark(folder: AnyPath) -> str:
    """Leaves a file in a local run folder, for other nodes to see; returns its name, "" for a remote folder."""
    if not isinstance(folder, Path):
        return ""
    name = f".probe-{uuid.uuid4().hex}"
    write_atomically(folder / name, b"")
    return name


def faults_here(needs: Needs, marked: str) -> list[str]:
    """What keeps this node from its part in a job, in sentences without its name.

    Args:
        needs: of the job.
        marked: what :func:`mark` returned on the driver.
    """
    folder = as_path(needs.run_folder)

    def store() -> None:
        if isinstance(folder, Path) and not (folder / marked).exists():
            raise PreflightError(
                f"run_folder {folder} is not there, or is another than where the job was submitted; name one that all "
                "nodes mount, or a URL."
            )
        make_writable(folder, "run_folder")

    def tracking() -> None:
        check_reachable(needs.tracking)

    asked = [_Asked(store, f"run_folder {folder} does not answer"), _Asked(tracking, "the tracking server is silent")]
    until = time.monotonic() + _PATIENCE_S
    return [fault for each in asked if (fault := each.fault(until)) is not None]


class _Asked:
    """A check that is not waited for as long as clients of stores try, which is minutes."""

    def __init__(self, check: Callable[[], None], silent: str) -> None:
        self._check = check
        self._fault: str | None = f"{silent} within {_PATIENCE_S:.0f} s; check addresses and firewalls."
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._check()
        except PoseCoreError as error:
            self._fault = str(error)
        except Exception as error:  # every store has errors of its own
            self._fault = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}."
        else:
            self._fault = None

    def fault(self, until: float) -> str | None:
        """What is wrong, as far as is known then; None for nothing."""
        self._thread.join(max(0.0, until - time.monotonic()))
        return self._fault


def listener(address: str) -> socket.socket:
    """Takes connections at an address, on any port, as a training process will; nobody needs to accept them."""
    return socket.create_server((address, 0), family=_family(address), backlog=256)


def unreached(own: str, others: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """Opens a connection to each of the others; by name, why that was not possible.

    Args:
        own: address that it comes from.
        others: by name, address and port.
    """
    failed: dict[str, str] = {}

    def connect(name: str, there: tuple[str, int]) -> None:
        try:
            socket.create_connection(there, _CONNECT_S, source_address=(own, 0)).close()
        except OSError as error:
            failed[name] = f"from {own} to {there[0]}: {error.strerror or error}"

    threads = [threading.Thread(target=connect, args=other) for other in others.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
