"""Telling others that an alias moved: a POST of JSON to every URL that its policies name.

A tracking server's own webhooks (event ``model_version_alias.created``) are told as well, because the alias is set
through the registry; they know nothing of reasons, and a store without a server has none.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping

from posecore.schema import Json

_TIMEOUT_S = 5.0


def announce(urls: Iterable[str], message: Mapping[str, Json]) -> list[str]:
    """Tells every URL once; returns why some were not told, a sentence each.

    Args:
        urls: http or https.
        message: what is told.
    """
    body = json.dumps(dict(message)).encode()
    problems = []
    for url in dict.fromkeys(urls):
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            problems.append(f"{url} was not told of the move ({reason}).")
    return problems
