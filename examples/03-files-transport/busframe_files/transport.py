"""The transport: one directory, with a directory in it for each queue, topic, subscription and its dead letters.

    shop/.partial/                what is being written
    shop/emails/entity.json       what it is, and a subscription's filter
    shop/emails/ready/            one file for each message that waits
    shop/emails/held/by-…/        what a consumer holds

Every step is one ``rename``, ``link`` or ``unlink``: it is done or not, and only one process can have done it.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

from busframe import errors, spi
from busframe.logic.dead_letter import read_dead_letter
from busframe.logic.filters import matches
from busframe.logic.size import message_bytes
from busframe_files.plugin import Settings
from busframe_files.receiver import FilesReceiver
from busframe_files.stored import LATEST_US, Name, decode, encode, new_position

T = TypeVar("T")

KINDS = {
    spi.Queue: "queue",
    spi.Topic: "topic",
    spi.Subscription: "subscription",
    spi.DeadLetters: "dead letters",
}
GARBAGE_AFTER_S = 3600.0


class Files(spi.Transport):
    """One client of a directory.

    All work on files is done by one thread: ``fsync`` takes milliseconds, for which the event loop must not stand
    still, and a single thread does things in the order in which they were asked.
    """

    def __init__(self, settings: Settings, host: spi.Host) -> None:
        self.settings, self.host, self.root = settings, host, settings.path
        self.native = self.root
        self.capabilities = spi.Capabilities(
            durable=True,
            confirm="written",
            delivery_count=True,
            attempt_exact=True,
            nack="native",
            dead_letter="copy",
            ordering="process",
            filters="broker",
            nack_delay_max_s=inf,
            publish_delay_max_s=inf,
            delay_resolution_s=settings.poll_s + 0.05,
            hold_max_s=inf,
            max_message_bytes=settings.max_message_bytes,
            browse=True,
            remove=True,
        )
        self._thread: ThreadPoolExecutor | None = None
        self._receivers: set[FilesReceiver] = set()
        self._last_us = 0

    # ------------------------------------------------------------------------------------------- open and close

    async def open(self) -> None:
        """Make the directory where it is missing, and put away what crashed publishers left behind."""
        self._thread = self._thread or ThreadPoolExecutor(1, "busframe-files")
        await self.run(self._prepare)

    def _prepare(self) -> None:
        (self.root / ".partial").mkdir(parents=True, exist_ok=True)
        for file in (self.root / ".partial").iterdir():
            with suppress(OSError):  # another client does the same
                if file.stat().st_mtime < time.time() - GARBAGE_AFTER_S:
                    file.unlink()

    async def close(self) -> None:
        """Finish what was begun; what is held goes back at once."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)
            for receiver in self._receivers:
                await receiver.close()

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something with files. If cancelled: it is done nevertheless, if it had begun."""
        if self._thread is None:
            raise errors.ClosedError(f"files://{self.root} is not open")
        with translated(self.root):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # ------------------------------------------------------------------------------------------------- topology

    def folder(self, address: spi.Address) -> Path:
        """Where an address is."""
        return self.root / self.host.name(address)

    def described(self, address: spi.Address) -> dict[str, Any]:
        """What is stored about an address.

        Raises:
            DestinationNotFound: it does not exist, or is of another kind.
        """
        found = read_json(self.folder(address) / "entity.json")
        if found.get("kind") != KINDS[type(address)]:
            raise errors.DestinationNotFound(str(address))
        return found

    async def plan(self, entities: Sequence[spi.Entity]) -> Sequence[spi.Change]:
        """Compare with the stored descriptions."""
        return await self.run(lambda: [change for entity in entities for change in self._plan(entity)])

    def _plan(self, entity: spi.Entity) -> list[spi.Change]:
        address = entity.address
        wanted: dict[str, Any] = {"kind": KINDS[type(address)], "ordering": entity.ordering or "none"}
        if isinstance(address, spi.Subscription):
            if address.start != "latest" or address.temporary:
                raise errors.Unsupported(f"{address}: a subscription of files:// begins when it is declared, and stays")
            wanted["where"] = {name: list(values) for name, values in address.where.items()}
        found = read_json(self.folder(address) / "entity.json")
        if not found:
            return [spi.Change(address, "create", None, wanted)]
        return [
            spi.Change(address, "update" if name == "where" else "conflict", name, value, found.get(name))
            for name, value in wanted.items()
            if found.get(name) != value and (name != "ordering" or entity.ordering is not None)
        ]

    async def apply(self, changes: Sequence[spi.Change]) -> None:
        """Make what is missing and store changed filters."""
        for change in changes:
            if change.action == "conflict":
                raise errors.TopologyMismatch(
                    f"{change.address}: its {change.property} is {change.found!r}, and {change.wanted!r} is asked"
                )
        for change in changes:
            await self.run(self._make, change)

    def _make(self, change: spi.Change) -> None:
        folder = self.folder(change.address)
        if change.action == "update":
            self.replace(folder / "entity.json", self.described(change.address) | {"where": change.wanted})
            return
        whole = self.root / ".partial" / uuid4().hex
        for part in ("ready", "held"):
            (whole / part).mkdir(parents=True)
        self.replace(whole / "entity.json", change.wanted)
        try:
            whole.rename(folder)  # it appears whole, or was made by somebody else meanwhile
        except OSError:
            if (found := read_json(folder / "entity.json")) != change.wanted:
                raise errors.TopologyMismatch(f"{change.address}: it was made meanwhile, as {found}") from None
        sync(self.root)

    # ----------------------------------------------------------------------------------------------- publishing

    async def publish(self, outgoing: Sequence[spi.Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Store messages; confirmed means: on the disk, under their names."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.run(self.store, outgoing)
        except TimeoutError:
            return [errors.PublishOutcomeUnknown(f"the disk gave no answer in {timeout_s:g} s") for _ in outgoing]

    def store(self, outgoing: Sequence[spi.Outgoing]) -> list[Exception | None]:
        """Store messages, in order; each step for all before the next, so that a folder is synced once."""
        refused = [self._refusal(out) for out in outgoing]
        accepted = [out for out, refusal in zip(outgoing, refused, strict=True) if refusal is None]
        failure: type[errors.PublishError] = errors.PublishFailed  # as long as it has no name in any source
        try:
            partials = [self._write(encode(out.message, out.carried)) for out in accepted]
            failure = errors.PublishOutcomeUnknown
            folders: set[Path] = set()
            for out, partial in zip(accepted, partials, strict=True):
                folders.update(self._name(out, partial))
            for folder in folders:
                sync(folder)
        except OSError as error:
            return [refusal or failure(f"files://{self.root}: {error}") for refusal in refused]
        return list(refused)

    def _refusal(self, out: spi.Outgoing) -> errors.PublishError | None:
        size, limit = message_bytes(out.message), self.settings.max_message_bytes
        if size > limit:
            return errors.MessageTooLarge(size, limit)
        try:
            self.described(out.to)
        except errors.DestinationNotFound as missing:
            return missing
        return None

    def _name(self, out: spi.Outgoing, partial: Path) -> list[Path]:
        """Give a written file its name, in each subscription that takes it. Returns the folders."""
        # Later than the last one: what one client publishes keeps its order.
        self._last_us = max(self._last_us + 1, int(self.host.clock() * 1e6))
        due_us = min(self._last_us + int(out.delay_s * 1e6), LATEST_US)
        name = Name(due_us, 0, new_position(self._last_us))
        folders = self._takers(out) if isinstance(out.to, spi.Topic) else [self.folder(out.to) / "ready"]
        for folder in folders:
            os.link(partial, folder / str(name))
        partial.unlink()
        return folders

    def _takers(self, out: spi.Outgoing) -> list[Path]:
        entities = [(file, read_json(file)) for file in self.root.glob(f"{self.host.name(out.to)}--*/entity.json")]
        return [
            file.parent / "ready"
            for file, found in entities
            if found.get("kind") == "subscription" and matches(found["where"], out.message.headers)
        ]

    def _write(self, content: bytes) -> Path:
        """Bring a content to the disk, under a name that nobody reads."""
        partial = self.root / ".partial" / uuid4().hex
        partial.write_bytes(content)
        sync(partial)
        return partial

    def replace(self, file: Path, content: object) -> None:
        """Give a file another content, in one step: bytes, or what JSON can say."""
        os.replace(self._write(content if isinstance(content, bytes) else json.dumps(content).encode()), file)

    # ------------------------------------------------------------------------------------- receiving and looking

    def receiver(
        self, entity: spi.Entity, *, prefetch: int, ack: Literal["after", "before"] = "after"
    ) -> FilesReceiver:
        """Make a consumer. It fetches nothing ahead, so ``prefetch`` is kept by whoever calls ``receive``."""
        if isinstance(entity.address, spi.Topic):
            raise errors.Unsupported(f"{entity.address} is a topic: consume one of its subscriptions")
        self._receivers = {receiver for receiver in self._receivers if not receiver.closed}
        receiver = FilesReceiver(self, entity.address, before=ack == "before")
        self._receivers.add(receiver)
        return receiver

    async def browse(self, source: spi.SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[spi.Stored]:
        """Look at what is stored, held or not, oldest first."""
        return await self.run(self._browse, source, after, limit)

    def _browse(self, source: spi.SourceAddress, after: str, limit: int) -> list[spi.Stored]:
        found: list[spi.Stored] = []
        for position, file in self._files_of(source):
            if position > after and len(found) < limit:
                with suppress(FileNotFoundError):  # it was taken or settled meanwhile
                    message, carried = decode(file.read_bytes(), position)
                    found.append(spi.Stored(position, replace(message, dead=read_dead_letter(carried)), None))
        return found

    async def remove(self, source: spi.SourceAddress, positions: Sequence[str]) -> int:
        """Remove messages; who holds one gets ``SettlementLost``."""
        return await self.run(self._remove, source, set(positions))

    async def purge(self, source: spi.SourceAddress) -> int:
        """Remove all messages."""
        return await self.run(self._remove, source, None)

    def _remove(self, source: spi.SourceAddress, positions: set[str] | None) -> int:
        removed = 0
        for position, file in self._files_of(source):
            if positions is None or position in positions:
                with suppress(FileNotFoundError):
                    file.unlink()
                    removed += 1
        return removed

    def _files_of(self, source: spi.SourceAddress) -> list[tuple[str, Path]]:
        self.described(source)
        files = [*self.folder(source).glob("ready/[!.]*"), *self.folder(source).glob("held/*/*")]
        names = [(Name.parse(file.name), file) for file in files]
        return sorted((name.position if name else file.name, file) for name, file in names)

    async def diagnose(self) -> Sequence[spi.Finding]:
        """What a confirmation is worth here."""
        says = f"a confirmed message and its name are on the disk of {self.root}, and on no other"
        return (spi.Finding("ok", "durability", says, "where one disk is not enough: a replicated broker"),)


def read_json(file: Path) -> dict[str, Any]:
    """A description; empty where there is none."""
    with suppress(FileNotFoundError):
        return dict(json.loads(file.read_bytes()))
    return {}


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk: a file that is there under no name is lost."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def translated(root: Path) -> Generator[None]:
    """No error of the operating system escapes: it is the cause of one of ours."""
    try:
        yield
    except PermissionError as error:
        raise errors.AccessDenied(f"files://{root}: {error}") from error
    except OSError as error:
        raise errors.TransportError(f"files://{root}: {error}") from error
