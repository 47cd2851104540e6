"""Whether a tracking store answers, asked without MLflow's client: that takes seconds to import, minutes to give up."""

import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from posecore.errors import ConfigError, PreflightError

_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check_reachable(uri: str, timeout_s: float = 5.0) -> None:
    """Returns if the store behind a tracking URI answers.

    MLflow itself would retry an unreachable server for minutes, with a stack trace at the end.

    Raises:
        PreflightError: it does not answer within ``timeout_s``, or not as MLflow does.
        ConfigError: the URI has no usable form.
    """
    parts = urlsplit(uri)
    advice = "start the server, correct tracking.uri, or leave it out to record in a local SQLite file."
    if parts.scheme in ("http", "https"):
        request = urllib.request.Request(uri.rstrip("/") + "/health")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                answer = reply.read(64).strip()
        except urllib.error.HTTPError as error:
            raise PreflightError(
                f"MLflow server {shown_uri(uri)} answered {error.code} {error.reason} to /health; check the address "
                "and the server's --allowed-hosts."
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise PreflightError(f"MLflow server {shown_uri(uri)} does not answer ({reason}); {advice}") from None
        if answer != b"OK":
            raise PreflightError(f"{shown_uri(uri)} answers, but is not an MLflow server; correct tracking.uri.")
    elif parts.scheme == "sqlite":
        path = Path(uri.removeprefix("sqlite:///"))
        if not path.is_absolute():
            raise ConfigError(
                f"tracking.uri {uri}: a SQLite path must be absolute (four slashes), because jobs run in throw-away "
                "directories."
            )
        # MLflow tries for minutes to open what cannot be opened.
        if path.exists() and not path.is_file():
            raise PreflightError(f"tracking store {uri}: there is something at that path that is no file; {advice}")
        above = next(folder for folder in path.parents if folder.exists())
        if not path.exists() and not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise PreflightError(f"tracking store {uri}: {above} is no folder that can be written; {advice}")
    elif (kind := parts.scheme.partition("+")[0]) in _DATABASE_PORTS:
        address = (parts.hostname or "localhost", parts.port or _DATABASE_PORTS[kind])
        try:
            socket.create_connection(address, timeout_s).close()
        except OSError as error:
            raise PreflightError(f"tracking database {shown_uri(uri)} does not answer ({error}); {advice}") from None
    else:
        raise ConfigError(f"tracking.uri {shown_uri(uri)}: expected http(s)://, sqlite:/// or a database URL.")


def shown_uri(uri: str) -> str:
    """The URI without a password."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return uri.replace(f":{parts.password}@", ":***@")
