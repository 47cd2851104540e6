"""Who asks: the user that the tracking server knows, else the one that the operating system knows, never ``$USER``."""

import os
import pwd
from functools import lru_cache

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

_ASKED = "/api/2.0/mlflow/users/current"


@lru_cache(maxsize=8)
def user_of(uri: str) -> str:
    """Name of whoever this process acts for at a tracking store.

    Args:
        uri: of the store. A server with accounts says whose the password or token is; elsewhere it is the owner of the
            process, as the operating system names it.
    """
    if uri.startswith(("http://", "https://")):
        try:
            reply = http_request(get_default_host_creds(uri), _ASKED, "GET", max_retries=0, timeout=5)
            if reply.status_code == 200:
                return str(reply.json()["user"]["username"])
        except (MlflowException, OSError, ValueError, KeyError, TypeError):
            pass  # a server without accounts knows nobody
    return owner_of_process()


def owner_of_process() -> str:
    """As the operating system names them; containers without a user entry have only a number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
