"""A PostgreSQL server on loopback, where this machine has one."""

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port

NAME, PASSWORD = "mlflow", "a secret / of a kind"
"""User and database, and the password; it needs quoting in an address."""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Address of an empty database, with ``{password}`` in it; skips without the server's programs.

    Args:
        folder: of the data; everybody must be able to go through the folders above it if this is root.
    """
    binaries = _binaries()
    data, password, log = folder / "data", folder / "password", folder / "postgres.log"
    data.mkdir(mode=0o700)
    password.write_text(PASSWORD)
    log.touch()
    as_user: dict[str, str] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to be root
        as_user = {"user": "postgres", "group": "postgres"}
        for path in (data, password, log):
            shutil.chown(path, "postgres", "postgres")
        for above in (folder, *folder.parents):
            if getpass.getuser() == "root" and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
    port = str(free_port())
    made = [binaries / "initdb", "-D", data, "-U", NAME, f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, cwd="/", **as_user)
    started = [binaries / "postgres", "-D", data, "-p", port, "-k", data, "-c", "listen_addresses=127.0.0.1"]
    with log.open("ab") as output:
        server = subprocess.Popen([*started, "-c", "fsync=off"], stdout=output, stderr=output, cwd="/", **as_user)
    try:
        until = time.monotonic() + 60
        ready = [binaries / "createdb", "-h", "127.0.0.1", "-p", port, "-U", NAME, NAME]
        while subprocess.run(ready, env={"PGPASSWORD": PASSWORD}, capture_output=True, check=False).returncode:
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.2)
        yield f"postgresql+psycopg2://{NAME}:{{password}}@127.0.0.1:{port}/{NAME}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _binaries() -> Path:
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if all((place / name).exists() for name in ("postgres", "initdb", "createdb")):
            return place
    pytest.skip("no PostgreSQL server on this machine: nothing was recorded in one")
