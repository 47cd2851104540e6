"""Which interface training processes talk over."""

import os
import socket

import pytest

from posecore.cluster.network import choose_interface, interface_of, interfaces
from posecore.errors import PreflightError

TWO_NETWORKS = {
    "lo": ["127.0.0.1", "::1"],
    "eth0": ["192.0.2.7", "02:00:00:00:00:07", "fe80::7%eth0"],
    "ib0": ["198.51.100.7"],
}


@pytest.mark.parametrize(
    ("address", "name"),
    [("192.0.2.7", "eth0"), ("198.51.100.7", "ib0"), ("fe80::7", "eth0"), ("::1", "lo"), ("203.0.113.1", None)],
)
def test_the_interface_of_a_nodes_address_is_found(address: str, name: str | None) -> None:
    assert interface_of(address, TWO_NETWORKS) == name


def test_this_machine_has_loopback() -> None:
    loopback = interface_of("127.0.0.1")
    assert loopback is not None
    assert loopback in {name for _, name in socket.if_nameindex()}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that Ray knows by an address of its second network."""
    monkeypatch.setattr("posecore.cluster.network.get_node_ip_address", lambda: "198.51.100.7")
    monkeypatch.setattr("posecore.cluster.network.interfaces", lambda: TWO_NETWORKS)
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(variable, "")  # restored afterwards
        monkeypatch.delenv(variable)


def chosen() -> tuple[str | None, str | None]:
    return os.environ.get("GLOO_SOCKET_IFNAME"), os.environ.get("NCCL_SOCKET_IFNAME")


@pytest.mark.usefixtures("node")
def test_processes_talk_over_the_interface_of_the_nodes_address() -> None:
    choose_interface(None)
    assert chosen() == ("ib0", "ib0")


@pytest.mark.usefixtures("node")
def test_the_nodes_own_environment_goes_before_that_and_the_run_file_before_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    choose_interface(None)
    assert chosen() == ("ib0", "lo")
    choose_interface("eth0")
    assert chosen() == ("eth0", "eth0")


@pytest.mark.usefixtures("node")
def test_an_interface_that_a_node_lacks_is_refused() -> None:
    with pytest.raises(PreflightError, match=r"node 198.51.100.7: it has no interface 'eth1' \(it has eth0, ib0, lo\)"):
        choose_interface("eth1")
    assert chosen() == (None, None)


def test_every_interface_is_listed_with_its_addresses() -> None:
    assert any("127.0.0.1" in addresses for addresses in interfaces().values())
