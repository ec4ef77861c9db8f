"""What the author of a transport writes, once, so that every check can run against it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from busframe.model.destination import Address
from busframe.spi.transport import Host, Transport

SECRET = "kit-s3cret-0f3a"
"""A password that nobody has."""


class NotRunnable(Exception):
    """A check cannot run here: says why. It never counts as passed."""


@dataclass(frozen=True, slots=True)
class BrokerState:
    """What the broker itself says of a source; None: it does not.

    Attributes:
        consumers: how many there are.
        ready: messages that wait.
        unsettled: messages that are delivered and not settled.
    """

    consumers: int | None = None
    ready: int | None = None
    unsettled: int | None = None


class Harness(ABC):
    """One broker, as the kit sees it.

    ``native_*`` go through the broker's own client and not through the transport, because a transport that is wrong
    both ways would look right.

    Attributes:
        name: of the transport and its broker, for the report.
        url: for checks that start processes of their own; None: the broker lives in this process.
        tls_scheme: of its plugin's URLs with TLS; None: there are none.
        patience: by how much longer than usual to wait for what should come.
        lock_s: after how long a broker takes an unsettled delivery back of which its consumer says nothing; None: it
            goes by the connection alone.
        silence_s: after how long a silence a client of ``watchful`` gives its connection up; None: no client does.
        late_acks: the broker takes an acknowledgement also from who has lost the delivery.
        soak_s: for how long a check of tier S goes on, once it has done the least that it does.
        seed: of what is left to chance in these: with the same one the same faults happen.
        preload: a function (``module:name``) and its arguments: what processes that checks start call first. For
            harnesses of mutants, which are to be wrong there as well.
    """

    name: str
    url: str | None = None
    tls_scheme: str | None = None
    patience: float = 1.0
    lock_s: float | None = None
    silence_s: float | None = None
    late_acks: bool = False
    soak_s: float = 180.0
    seed: int = 0
    preload: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        """Of the URLs that its plugin takes."""
        if self.url is None:
            raise NotRunnable(f"{self.name} has no URL")
        return self.url.partition(":")[0]

    async def start(self) -> None:
        """Prepare the broker, once for a run."""

    async def stop(self) -> None:
        """Put everything away. Idempotent."""

    @abstractmethod
    def transport(self, host: Host) -> Transport:
        """A new client of the broker, not open."""

    def watchful(self, host: Host) -> Transport:
        """The same, which gives a silent connection up as early as it can be told to."""
        return self.transport(host)

    @abstractmethod
    async def native_publish(self, to: Address, name: str, body: bytes, headers: Mapping[str, object]) -> None:
        """Publish a message as a foreign program does, with its headers typed as they are.

        Args:
            to: the queue or topic.
            name: what it is called on the broker.
            body: of the message.
            headers: text, integers, floats, booleans, bytes, times, lists or None; those that the broker has no
                type for are left out.
        """

    @abstractmethod
    async def native_read(self, source: Address, name: str) -> tuple[bytes, Mapping[str, str]]:
        """Take one message as a foreign program does: (body, the application's own headers)."""

    @abstractmethod
    async def native_exists(self, to: Address, name: str) -> bool:
        """Whether something of this name exists on the broker."""

    async def broker_state(self, source: Address, name: str) -> BrokerState:
        """What the broker says of a source."""
        raise NotRunnable(f"{self.name} does not say what a source holds")

    async def native_limited(self, source: Address, name: str) -> bool:
        """Make a source as an operator does who lets the broker give a message up after its second delivery.

        Returns:
            False: this broker has no such limit, so nothing was made.
        """
        return False

    # Users and limits: of those that are left out, the parts of checks that need them are left out as well, and named.

    def url_with_bad_password(self) -> str:
        """Its URL with a password that the broker refuses: ``kit-s3cret-0f3a``, which may show up nowhere."""
        parts = urlsplit(self.url or "")
        if not parts.username or not parts.hostname:
            raise NotRunnable(f"the URL of {self.name} names no user")
        user, place = parts.netloc.rpartition("@")[0].partition(":")[0], parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{user}:{SECRET}@{place}").geturl()

    async def native_user(self, *, may_use: bool) -> Callable[[Host], Transport]:
        """Make a user of the broker who may make, change and delete nothing.

        Args:
            may_use: publish to and consume from all that is there; else nothing at all.

        Returns:
            What makes clients of this user, as ``transport`` does.
        """
        raise NotRunnable(f"{self.name} has no users")

    async def native_full(self, source: Address, name: str) -> None:
        """Make a source that takes a few messages and refuses more, until some of them are gone."""
        raise NotRunnable(f"{self.name} refuses nothing for what it holds already")

    async def silence(self, transport: Transport) -> None:
        """Let a client fall silent, as when its process hangs: it goes on, and renews nothing that it holds.

        Called where ``lock_s`` is said.
        """
        raise NotRunnable(f"no client of {self.name} can be silenced")

    # Faults: of those that are left out, the checks that need them are not runnable.

    async def disconnect(self) -> None:
        """Cut every client's connections once; the broker goes on, and clients can connect again at once."""
        raise NotRunnable(f"{self.name} has no connection to cut")

    async def restart(self) -> None:
        """Stop the broker in order and start it again, with what it keeps."""
        raise NotRunnable(f"{self.name} cannot be restarted")

    async def kill(self) -> None:
        """Kill the broker and start it again, with what it keeps."""
        raise NotRunnable(f"{self.name} cannot be killed")

    async def delete(self, source: Address, name: str) -> None:
        """Remove a source from the broker, with its messages, under its consumers."""
        raise NotRunnable(f"nothing can be removed from {self.name} from outside")

    async def freeze(self, seconds: float) -> None:
        """Let no byte through to the broker and back for so many seconds, or until cancelled; connections stay."""
        raise NotRunnable(f"{self.name} cannot be frozen")

    async def expire(self, source: Address, name: str) -> None:
        """Let the broker's retention drop everything that a source holds."""
        raise NotRunnable(f"{self.name} keeps what is not consumed")
