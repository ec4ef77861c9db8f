"""URLs that lead nowhere, made from the URL of a harness."""

import socket
from urllib.parse import urlsplit

from busframe.conformance.harness import SECRET, Harness


def unreachable(harness: Harness) -> str | None:
    """A URL at which nothing listens; None: the broker lives in this process, or is no server (``files:///…``)."""
    if harness.url is None or urlsplit(harness.url).hostname is None:
        return None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return urlsplit(harness.url)._replace(netloc=f"kit:{SECRET}@127.0.0.1:{port}").geturl()
