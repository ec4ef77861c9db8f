"""Stands in for FastAPI where it is not installed: what the documents use of it, and nothing that it does."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[object]])


class FastAPI:
    """Remembers its endpoints by method and path."""

    def __init__(self, *, lifespan: "Callable[[FastAPI], AbstractAsyncContextManager[None]]") -> None:
        self.lifespan = lifespan
        self.endpoints: dict[str, Callable[..., Awaitable[Any]]] = {}

    def post(self, path: str, *, status_code: int) -> Callable[[Endpoint], Endpoint]:
        """Register an endpoint."""
        return self._register(f"POST {path}")

    def get(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """Register an endpoint."""
        return self._register(f"GET {path}")

    def _register(self, name: str) -> Callable[[Endpoint], Endpoint]:
        def register(endpoint: Endpoint) -> Endpoint:
            self.endpoints[name] = endpoint
            return endpoint

        return register


class Response:
    """An answer without a body."""

    def __init__(self, *, status_code: int) -> None:
        self.status_code = status_code


class HTTPException(Exception):
    """An answer that is raised."""

    def __init__(self, status_code: int, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.status_code = status_code
        self.headers = headers
