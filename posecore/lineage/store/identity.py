"""Who asks: the user that the tracking server knows, else the one that the operating system knows, never ``$USER``."""

import os
import pwd
from functools import lru_cache

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from posecore.errors import LineageError
from posecore.lineage.store.reachable import shown_uri

_ASKED = "/api/2.0/mlflow/users/current"
_TIMEOUT_S = 30.0


@lru_cache(maxsize=8)
def user_of(uri: str) -> str:
    """Name of whoever this process acts for at a tracking store.

    Args:
        uri: of the store. A server with accounts says whose the password or token is; elsewhere it is the owner of the
            process, as the operating system names it.

    Raises:
        LineageError: the server does not say whom it takes this process for; nobody else's name is recorded instead.
    """
    if not uri.startswith(("http://", "https://")):
        return owner_of_process()
    try:
        reply = http_request(get_default_host_creds(uri), _ASKED, "GET", max_retries=2, timeout=_TIMEOUT_S)
        if reply.status_code == 404:  # a server without accounts knows nobody
            return owner_of_process()
        if reply.status_code != 200:
            raise LineageError(f"it answered {reply.status_code}; look at MLFLOW_TRACKING_USERNAME and _PASSWORD")
        return str(reply.json()["user"]["username"])
    except (LineageError, MlflowException, OSError, ValueError, KeyError, TypeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise LineageError(f"the tracking server {shown_uri(uri)} does not say who this is ({detail}).") from error


def owner_of_process() -> str:
    """As the operating system names them; containers without a user entry have only a number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
