"""Ports of this machine for servers that are told theirs and take it seconds later."""

import random
import socket

_NOT_GIVEN_OUT = range(20_000, 32_000)
"""Neither by Linux, to whoever opens a connection, nor by Ray, to its processes."""


def free_port() -> int:
    """A port that nobody has, and that nobody gets who asks the system for any.

    One that the system itself chose, it would choose again for another before the server is there.
    """
    while True:
        port = random.SystemRandom().choice(_NOT_GIVEN_OUT)  # another one in every process of the tests
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
