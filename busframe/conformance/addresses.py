"""URLs that lead nowhere, or somewhere else, made from the URL of a harness."""

import socket
from urllib.parse import urlsplit

from busframe.conformance.harness import Harness

SECRET = "kit-s3cret-0f3a"
"""The password in such a URL: it may show up nowhere."""


def unreachable(harness: Harness) -> str | None:
    """A URL at which nothing listens; None: the broker lives in this process, or is no server (``files:///…``)."""
    if harness.url is None or urlsplit(harness.url).hostname is None:
        return None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return urlsplit(harness.url)._replace(netloc=f"kit:{SECRET}@127.0.0.1:{port}").geturl()


def stranger(harness: Harness) -> str | None:
    """The broker's URL with a user that it does not know; None: it has no users."""
    if harness.url is None or urlsplit(harness.url).hostname is None:
        return None
    parts = urlsplit(harness.url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"kit-nobody:{SECRET}@{place}").geturl()
