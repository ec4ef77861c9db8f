"""The server's management plugin over HTTP: what AMQP does not tell. It only reads, and nothing depends on it."""

import asyncio
import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from busframe.errors import AccessDenied, ConnectionFailed
from busframe_rabbitmq.policies import Policies
from busframe_rabbitmq.settings import Settings, split_management_url
from busframe_rabbitmq.tls import make_context

Listed = Mapping[str, Any]
"""One thing as the management plugin shows it."""


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows nobody to another place, where the password would go along."""

    def redirect_request(self, req: object, fp: object, code: int, msg: str, headers: object, newurl: str) -> None:
        """There is no other request: the answer is an error."""


class Management:
    """Asks the management plugin.

    Every question raises ``AccessDenied`` where the user may not ask it (it needs the tag ``monitoring``), and
    ``ConnectionFailed`` where there is no answer, or none of a management plugin.

    Args:
        url: with or without user and password.
        settings: whose user is taken, where the URL has none; how to connect.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.url, user, password = split_management_url(url)
        server = settings.servers[0]
        if user is None:
            user, password = server.user, server.password
        self._login = f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
        self._vhost = server.vhost
        self._settings = settings

    def __repr__(self) -> str:
        return f"<Management {self.url}>"

    async def policies(self) -> Policies:
        """All policies of the virtual host."""
        users, operators = await asyncio.gather(
            self._get("policies", self._vhost), self._get("operator-policies", self._vhost)
        )
        return Policies(users or (), operators or ())

    async def bindings(self, exchange: str, queue: str) -> list[Listed]:
        """The bindings of a queue to an exchange."""
        return list(await self._get("bindings", self._vhost, "e", exchange, "q", queue) or ())

    async def unsettled(self, queue: str) -> int | None:
        """How many messages of a queue are delivered and not settled, some seconds ago; None: not known yet."""
        found = await self._get("queues", self._vhost, queue)
        count = found.get("messages_unacknowledged") if isinstance(found, Mapping) else None
        return count if isinstance(count, int) else None

    async def nodes(self) -> list[Listed]:
        """The nodes of the cluster."""
        return list(await self._get("nodes") or ())

    async def _get(self, *path: str) -> Any:
        """The answer; None where there is no such thing."""
        url = "/".join([self.url, "api", *(quote(part, safe="") for part in path)])
        return await asyncio.to_thread(self._ask, url)

    def _ask(self, url: str) -> Any:
        request = urllib.request.Request(url, headers={"Authorization": self._login})
        secure = urllib.request.HTTPSHandler(context=make_context(self._settings))
        try:
            with urllib.request.build_opener(_StayHere, secure).open(
                request, timeout=self._settings.connect_timeout_s
            ) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            if error.code in (401, 403):
                raise AccessDenied(f"management_url {self.url}: this user may not look: give it a tag") from error
            raise ConnectionFailed(f"management_url {self.url}: it answers with status {error.code}") from error
        except (OSError, HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise ConnectionFailed(f"management_url {self.url}: {reason}") from error
