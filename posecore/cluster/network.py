"""Which network interface training processes talk over: that of the address by which Ray knows their node.

Left alone, gloo binds to whatever the machine's own name resolves to, and NCCL to the first interface that is up; on
hosts with several networks neither need be one that the other nodes reach.
"""

import ipaddress
import os

import psutil
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
    if (fault := no_such_interface(wanted)) is not None:
        raise PreflightError(f"node {get_node_ip_address()}: {fault}")
    for variable in _VARIABLES:
        if chosen is not None and (wanted is not None or variable not in os.environ):
            os.environ[variable] = chosen


def own_address() -> str:
    """By which gloo of this process is reached, once its interface is chosen."""
    own = interfaces().get(os.environ.get(_VARIABLES[0], ""), [])
    found = [each for each in own if _is_ip(each)]  # the others are of the link layer
    return min(found, key=lambda each: ":" in each, default=get_node_ip_address())


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def no_such_interface(wanted: str | None) -> str | None:
    """What is said of a node that lacks an interface, without its name; None if it has it."""
    known = interfaces()
    if wanted is None or wanted in known:
        return None
    return (
        f"it has no interface {wanted!r} (it has {', '.join(sorted(known))}); name one in cluster.network_interface "
        "that all nodes have, or leave it out to take that of each node's own address."
    )
