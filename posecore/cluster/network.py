"""Which network interface training processes talk over: that of the address by which Ray knows their node.

Left alone, gloo binds to whatever the machine's own name resolves to, and NCCL to the first interface that is up; on
hosts with several networks neither need be one that the other nodes reach.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import psutil
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.util import get_node_ip_address

from posecore.errors import PreflightError

_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interfaces() -> dict[str, list[str]]:
    """By name of every network interface of this machine, its addresses."""
    return {name: [each.address for each in found] for name, found in psutil.net_if_addrs().items()}


def interface_of(address: str, known: dict[str, list[str]] | None = None) -> str | None:
    """The interface that has an address; None if none has, as behind a translation of addresses.

    Args:
        address: IPv4 or IPv6.
        known: of the machine; None looks.
    """
    found = known if known is not None else interfaces()
    # Linux writes a link-local IPv6 address with its interface after a percent sign.
    return next((name for name, own in found.items() if address in [each.partition("%")[0] for each in own]), None)


def choose_interface(wanted: str | None) -> None:
    """Has gloo and NCCL of this process talk over an interface; what the node's own environment says goes first.

    Args:
        wanted: its name, or None for that of the node's address.

    Raises:
        PreflightError: this node has no interface of that name.
    """
    chosen = wanted or interface_of(get_node_ip_address())
    if wanted is not None and wanted not in interfaces():
        raise no_such_interface(wanted, get_node_ip_address(), interfaces())
    for variable in _VARIABLES:
        if chosen is not None and (wanted is not None or variable not in os.environ):
            os.environ[variable] = chosen


def no_such_interface(wanted: str, address: str, known: Iterable[str]) -> PreflightError:
    """Of a node, in one sentence."""
    return PreflightError(
        f"cluster.network_interface: node {address} has no interface {wanted!r} (it has {', '.join(sorted(known))}); "
        "name one that all nodes have, or leave it out to take that of each node's own address."
    )


class _Backend(_TorchBackend):
    def on_start(self, worker_group: object, backend_config: "GroupConfig") -> None:
        worker_group.execute(choose_interface, backend_config.interface)  # type: ignore[attr-defined]
        super().on_start(worker_group, backend_config)


@dataclass
class GroupConfig(TorchConfig):
    """Ray's settings of the process group, and the interface it is made over; None for that of each node's address."""

    interface: str | None = None

    @property
    def backend_cls(self) -> type[_Backend]:
        """Ray asks for it."""
        return _Backend
