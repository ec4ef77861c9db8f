"""So much of Kafka's protocol as the conformance harness needs: what the client library cannot ask for."""

import socket
import struct


class Answer:
    """What a server says to a request; read from its beginning.

    Raises:
        OSError: there is none.
    """

    def __init__(self, connection: socket.socket, api: int, version: int, body: bytes) -> None:
        request = struct.pack(">hhi", api, version, 1) + packed("busframe-conformance") + body
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _read(connection, 4))
        self._data, self._at = _read(connection, size), 4

    def number(self, format: str) -> int:
        """The next one, of a format of ``struct``."""
        found: int = struct.unpack_from(f">{format}", self._data, self._at)[0]
        self.skip(struct.calcsize(f">{format}"))
        return found

    def skip(self, size: int) -> None:
        """Leave so many bytes out."""
        self._at += size

    def text(self) -> str:
        """The next one."""
        size = self.number("h")
        self.skip(size)
        return self._data[self._at - size : self._at].decode()

    def check(self) -> None:
        """Read an error, and raise ``ConnectionError`` if it is one."""
        if error := self.number("h"):
            raise ConnectionError(f"the server cannot say it yet: error {error}")


def packed(value: str) -> bytes:
    """Text as the protocol has it."""
    return struct.pack(">h", len(value.encode())) + value.encode()


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := connection.recv(size - len(data))):
            raise ConnectionError("the server went away")
        data += more
    return data
