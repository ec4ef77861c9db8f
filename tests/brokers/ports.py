"""Ports for servers under test."""

import random
import socket

# Below the range from which Linux takes ports for outgoing connections (32768 and up): a server that is
# restarted must find its port free, and not borrowed meanwhile by some client.
_RANGE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return *count* different ports that nobody listens on at 127.0.0.1."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_RANGE)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
