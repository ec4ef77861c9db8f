"""The harness for busframe's conformance kit: the same directory, by plain file operations and none of our code."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from uuid import uuid4

from busframe.conformance import BrokerState, Harness
from busframe.spi import Address, Host, Topic, Transport
from busframe_files.plugin import Settings, plugin
from busframe_files.transport import Files

LEASE_S = 2.0
"""Instead of 30, so that nobody waits so long for a consumer that was killed."""


class FilesHarness(Harness):
    """A directory that the kit may fill."""

    name = "files"

    def __init__(self, url: str) -> None:
        self.lock_s = LEASE_S
        self._settings = Settings(url=url.partition("?")[0], lease_s=LEASE_S)
        self._root = self._settings.path
        self.url = f"{self._settings.url}?lease_s={LEASE_S:g}"

    def transport(self, host: Host) -> Transport:
        """A client with a short lease."""
        return plugin.create(self._settings, host)

    async def native_publish(self, to: Address, name: str, body: bytes, headers: Mapping[str, object]) -> None:
        """As any program can: a file is moved into ``ready``. JSON has no type for bytes and times."""
        sent = {key: value for key, value in headers.items() if type(value).__name__ not in ("bytes", "datetime")}
        content = b"busframe " + json.dumps(sent).encode() + b"\n" + body if sent else body
        for folder in self._root.glob(f"{name}--*" if isinstance(to, Topic) else name):
            if not folder.name.endswith("--dead"):
                partial = self._root / ".partial" / f"{uuid4().hex}"
                partial.write_bytes(content)
                partial.rename(folder / "ready" / f"{uuid4().hex}.json")

    async def native_read(self, source: Address, name: str) -> tuple[bytes, Mapping[str, str]]:
        """As any program can: what begins with ``bf-`` is not the application's."""
        file = min((self._root / name / "ready").iterdir())
        content = file.read_bytes()
        file.unlink()
        line, _, body = content.removeprefix(b"busframe ").partition(b"\n")
        return body, {key: value for key, value in json.loads(line).items() if not key.startswith("bf-")}

    async def native_exists(self, to: Address, name: str) -> bool:
        """Whether there is such a directory."""
        return (self._root / name).is_dir()

    async def broker_state(self, source: Address, name: str) -> BrokerState:
        """Counted by hand."""
        consumers = list((self._root / name / "held").iterdir())
        held = [file for consumer in consumers for file in consumer.iterdir()]
        return BrokerState(len(consumers), len(list((self._root / name / "ready").iterdir())), len(held))

    async def silence(self, transport: Transport) -> None:
        """Its time stands still: leases that are due for renewal are not renewed."""

        async def stand_still(_: float) -> None:
            await asyncio.Event().wait()

        assert isinstance(transport, Files)
        transport.host = replace(transport.host, sleep=stand_still)

    async def disconnect(self) -> None:
        """Take every consumer's lease away, as another one does when it ran out."""
        for held in self._root.glob("*/held/*"):
            gone = held.rename(held.with_name(f"gone-{uuid4().hex}"))
            for file in gone.iterdir():
                file.rename(gone.parents[1] / "ready" / file.name)
            gone.rmdir()

    async def delete(self, source: Address, name: str) -> None:
        """Remove its directory: first from sight, for its consumers go on making files in it."""
        shutil.rmtree((self._root / name).rename(self._root / ".partial" / uuid4().hex))


def harness(url: str) -> FilesHarness:
    """The harness for ``files:///a/directory``."""
    return FilesHarness(url)
