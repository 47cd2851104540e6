"""Hosts on one machine: namespaces with an address, a name, processes and writable folders of their own each.

A host is a process that holds network, mount, process and name namespaces. Everything below its root is read only but
for folders in memory that no other host sees, so that two hosts can share a file over the network alone. When the
holder dies, so do all its processes, and its network and mounts are gone; it dies with the script, however that ends.
Needs root, and leaves the machine's own network alone.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = "10.77.0"
GATEWAY = f"{NETWORK}.254"
HOME = "/home/ray"
_OWN = "POSECORE_HOSTS_NETWORK"
_KINDS = ("--net", "--mount", "--pid", "--uts", "--ipc")
_INIT = ("--mount-proc", "--fork", "--kill-child")

_HOLDER = """
set -e
mount -o remount,bind,ro /
for folder in /tmp /var/tmp /dev/shm /home /run; do mount -t tmpfs -o size=1500m tmpfs $folder; done
mkdir -p {home} /run/lock && chmod 1777 /tmp /var/tmp /dev/shm {home}
printf '{hosts}' > /run/hosts && mount --bind /run/hosts /etc/hosts
hostname {name}
{prepare}
ip link set lo up
echo ready
sleep infinity & while :; do wait || :; done
"""


def enter_own_network(servers: Mapping[str, str]) -> None:
    """Starts this script again in a network of its own, with a switch that hosts are plugged into.

    Args:
        servers: name to address, as this script and the hosts know them.
    """
    if os.geteuid() != 0:
        sys.exit("this needs root: it makes namespaces.")
    if _OWN not in os.environ:
        os.environ[_OWN] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])
    for command in (
        "ip link set lo up",
        "ip link add switch type bridge",
        f"ip addr add {GATEWAY}/24 dev switch",
        "ip link set switch up",
    ):
        subprocess.run(command.split(), check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/srv"], check=True)
    Path("/srv/hosts").write_text(_names(servers))
    subprocess.run(["mount", "--bind", "/srv/hosts", "/etc/hosts"], check=True)


def _names(servers: Mapping[str, str], own: str = "localhost") -> str:
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {own}", *(f"{address} {name}" for name, address in servers.items())]
    return "\n".join([*lines, ""])


@dataclass
class Host:
    """One host.

    Attributes:
        name: its own, which nobody resolves to the address: as on many machines, it means 127.0.1.1.
        number: last part of its address.
        environment: of every command.
        prepare: shell commands that change its folders before anything runs.
    """

    name: str
    number: int
    environment: Mapping[str, str]
    prepare: str = ""
    _holder: subprocess.Popen[str] | None = field(default=None, repr=False)
    _pid: int = 0

    @property
    def address(self) -> str:
        """Of its only interface that others reach."""
        return f"{NETWORK}.{self.number}"

    def start(self, servers: Mapping[str, str]) -> None:
        """Returns when it has its network.

        Args:
            servers: name to address, as every host knows them.
        """
        hosts = _names(servers, self.name).replace("\n", "\\n")
        script = _HOLDER.format(home=HOME, name=self.name, hosts=hosts, prepare=self.prepare)
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *_KINDS, *_INIT, "bash", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"host {self.name} did not start")
        own = self._holder.pid
        self._pid = int(Path(f"/proc/{own}/task/{own}/children").read_text().split()[0])
        for command in (
            f"ip link add {self._port} type veth peer name eth0 netns {self._pid}",
            f"ip link set {self._port} master switch up",
        ):
            subprocess.run(command.split(), check=True)
        self.run(
            f"ip addr add {self.address}/24 dev eth0 && ip link set eth0 up && ip route add default via {GATEWAY} && "
            # As left by a container engine: an address that is the same on every host.
            "ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up"
        )

    def popen(self, command: str, log: Path | None = None, as_user: str | None = None) -> subprocess.Popen[str]:
        """Starts a shell command on it, its output to a file."""
        inside = ["bash", "-c", f"cd {HOME} && {command}"]
        if as_user is not None:
            inside = ["setpriv", f"--reuid={as_user}", f"--regid={as_user}", "--clear-groups", *inside]
        environment = [f"{name}={value}" for name, value in self.environment.items()]
        base = [f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}", f"HOME={HOME}", "LANG=C.UTF-8"]
        out = log.open("ab") if log is not None else subprocess.PIPE
        return subprocess.Popen(
            ["nsenter", f"--target={self._pid}", *_KINDS, "env", "-i", *base, *environment, *inside],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, command: str, timeout: float = 120, as_user: str | None = None) -> str:
        """Runs a shell command on it; returns what it said.

        Raises:
            RuntimeError: it failed.
        """
        process = self.popen(command, as_user=as_user)
        said, _ = process.communicate(timeout=timeout)
        if process.returncode != 0:
            raise RuntimeError(f"{self.name}: {command}\n{said[-4000:]}")
        return said

    def write(self, path: str, text: str) -> None:
        """A file on it."""
        self.run(f"mkdir -p $(dirname {path}) && printf %s {shlex.quote(text)} > {path}")

    def lose_power(self) -> None:
        """It is gone at once: nobody gets a farewell, not even of its network connections."""
        subprocess.run(["ip", "link", "set", self._port, "down"], check=True)
        self.stop()

    def stop(self) -> None:
        """Ends all its processes."""
        if self._holder is None:
            return
        self._holder.kill()
        self._holder.wait()
        self._holder = None
        until = time.monotonic() + 20
        while Path(f"/proc/{self._pid}").exists() and time.monotonic() < until:
            time.sleep(0.05)

    @property
    def _port(self) -> str:
        return f"port{self.number}"


@contextmanager
def running(hosts: list[Host]) -> Iterator[None]:
    """Ends whatever hosts the list holds then, a signal to the script included."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        for host in hosts:
            host.stop()


def until(what: str, is_so: Callable[[], object], timeout: float, interval: float = 0.2) -> None:
    """Waits for a function to answer with something true.

    Raises:
        TimeoutError: it did not in time; says what was waited for.
    """
    end = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(interval)
