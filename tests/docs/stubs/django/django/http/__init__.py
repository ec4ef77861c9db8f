"""A request and an answer."""

from collections.abc import Mapping


class HttpRequest:
    """What a view gets."""

    def __init__(self, body: bytes = b"") -> None:
        self.body = body


class JsonResponse:
    """What a view returns."""

    def __init__(self, data: Mapping[str, object], status: int = 200) -> None:
        self.data = data
        self.status_code = status
