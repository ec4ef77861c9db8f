"""The rights that the page for operators gives are enough for what it says, and for no more."""

import asyncio
import logging
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from busframe import Bus, Context, Queue, Reject, Retry, Topic
from busframe.errors import AccessDenied, PublishFailed
from busframe.model.entity import Entity
from busframe.model.message import Message
from busframe_kafka import forwarder, receiver
from busframe_kafka.client import EARLIEST
from busframe_kafka.transport import Kafka
from plugins.kafka.tests.support import opened
from tests.brokers.kafka import Kafka as KafkaServer
from tests.support.transports import declare, eventually, message, publish

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "operate-kafka.md"
SETUP, WORKER, WEB = "setup", "worker", "web"
LEFT_OVER = "left over"

emails = Queue[str]("emails", str)
orders = Topic[str]("orders", str)
billing = orders.subscription("billing")


def rules(name: str) -> list[AclBinding]:
    """What the commands of the page make, for an application of this name instead of ``shop``."""
    found: list[AclBinding] = []
    for line in re.findall(r"^\$ACL .*$", PAGE.read_text(), re.M):
        said: dict[str, list[str]] = {}
        words = shlex.split(line.replace("shop", name))[1:]
        for option, value in zip(words[::2], words[1::2], strict=True):
            said.setdefault(option, []).append(value)
        (principal,) = said.pop("--allow-principal")
        (pattern,) = said.pop("--resource-pattern-type", ["literal"])
        operations = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", each).upper() for each in said.pop("--operation")]
        found += [
            AclBinding(
                ResourceType[option.removeprefix("--").upper()],
                value,
                ResourcePatternType[pattern.upper()],
                principal,
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for option, values in said.items()
            for value in values
            for operation in operations
        ]
    return found


@dataclass
class Shop:
    """An application on a server that asks who comes; the users' rights are those of the page."""

    name: str
    address: str
    tls_ca_file: str
    admin: AdminClient
    rules: Sequence[AclBinding]

    @property
    def prefix(self) -> str:
        """Of its names."""
        return f"{self.name}."

    def url(self, user: str) -> str:
        """Where a user comes in."""
        return f"kafka+ssl://{self.name}-{user}:p@{self.address}"

    @property
    def settings(self) -> dict[str, Any]:
        """Besides the URL."""
        return {"tls_ca_file": self.tls_ca_file, "sasl_mechanism": "SCRAM-SHA-256"}

    def bus(
        self, user: str, topology: Literal["create", "verify", "assume"], handled: list[tuple[str, int]] | None
    ) -> Bus:
        """The application; a body says what its handler does. With None it only publishes."""
        config = {"topology": topology, "prefix": self.prefix, "transports": {"kafka": self.settings}}
        if handled is None:
            return Bus(self.url(user), config=config, uses=[emails, orders])
        bus = Bus(self.url(user), config=config, retry=Retry(max_attempts=3, delay_s=0.1))

        async def handle(body: str, ctx: Context) -> None:
            if body == LEFT_OVER:
                return
            handled.append((body, ctx.attempt))
            if body == "reject":
                raise Reject("as it says")
            if body == "retry" and ctx.attempt == 1:
                raise RuntimeError("not yet")

        bus.handle(emails, name="send")(handle)
        bus.handle(billing, name="bill")(handle)
        return bus

    def allow(self, *rules: AclBinding) -> None:
        """Give rights; returns when the server goes by them."""
        for done in self.admin.create_acls(list(rules)).values():
            done.result()
        for rule in rules:
            self._see(rule, 1)

    def take_away(self, *rules: AclBinding) -> None:
        """Take rights away; returns when the server goes by that."""
        for done in self.admin.delete_acls([_only(rule) for rule in rules]).values():
            done.result()
        for rule in rules:
            self._see(rule, 0)

    def _see(self, rule: AclBinding, times: int) -> None:
        for _ in range(1000):
            if len(self.admin.describe_acls(_only(rule)).result()) == times:
                return
        pytest.fail(f"the server does not go by a change of {rule}")

    @contextmanager
    def without(self, rule: AclBinding) -> Iterator[None]:
        """One right less."""
        self.take_away(rule)
        yield
        self.allow(rule)


def _only(rule: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        rule.restype,
        rule.name,
        rule.resource_pattern_type,
        rule.principal,
        rule.host,
        rule.operation,
        rule.permission_type,
    )


@pytest.fixture(scope="module")
def shop(kafka: KafkaServer) -> Iterator[Shop]:
    """One that was set up by who may; its users are gone afterwards."""
    if kafka.secure is None:
        pytest.skip("this server has no listener with TLS and passwords")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    name = f"test-{uuid4().hex[:10]}"
    users = [f"{name}-{user}" for user in (SETUP, WORKER, WEB)]
    said = rules(name)
    assert {rule.principal for rule in said} == {f"User:{user}" for user in users}
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    for done in admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion(user, scram, b"p") for user in users]
    ).values():
        done.result()
    made = Shop(name, kafka.secure[0], str(kafka.secure[1]), admin, said)
    made.allow(*said)

    async def set_up() -> None:
        async with made.bus(SETUP, "create", []).worker():
            pass

    asyncio.run(set_up())
    yield made
    made.take_away(*said)
    gone: list[Any] = [UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_256) for user in users]
    for done in admin.alter_user_scram_credentials(gone).values():
        done.result()


async def until(handled: list[tuple[str, int]], count: int, running: Any) -> None:
    """Wait until so many were handled."""
    async with asyncio.timeout(30):
        while len(handled) < count:
            await running.wait_idle()


async def test_they_are_enough(shop: Shop) -> None:
    """Set up by one user, published by another, and handled by a third: with retries, delays and dead letters."""
    handled: list[tuple[str, int]] = []
    web, worker = shop.bus(WEB, "assume", None), shop.bus(WORKER, "assume", handled)
    async with web, worker, worker.worker() as running:
        for body in ("mail", "retry", "reject"):
            await web.publish(emails, body)
        await web.publish(emails, "later", delay_s=0.2)
        await web.publish(emails, "tomorrow", delay_s=86400)
        await web.publish(orders, "order")
        await until(handled, 6, running)
        assert sorted(handled) == [
            ("later", 1), ("mail", 1), ("order", 1), ("reject", 1), ("retry", 1), ("retry", 2)
        ]  # fmt: skip
        dead = worker.dead_letters(emails)
        (letter,) = [letter async for letter in dead.list()]
        assert letter.message.body == b"reject"
        assert await dead.replay([letter]) == 1
        await until(handled, 7, running)
    async with opened(shop.url(WORKER), prefix=shop.prefix, **shop.settings) as transport:
        assert (await transport.stats(emails)).dead == 1


def left_over() -> Message:
    """A message that a later test may find."""
    return message(LEFT_OVER.encode(), content_type="text/plain; charset=utf-8")


def activity(shop: Shop, user: str) -> Callable[[], Any]:
    """All that a user does, on names that are new each time."""

    async def act() -> None:
        async with opened(shop.url(user), prefix=shop.prefix, **shop.settings) as transport:
            if user == WEB:
                for to, delay_s in ((emails, 0.0), (orders, 0.0), (emails, 60.0)):
                    for outcome in await publish(transport, to, left_over(), delay_s=delay_s):
                        if outcome is not None:
                            assert isinstance(outcome, PublishFailed)
                            assert not outcome.transient
                            assert outcome.__cause__ is not None
                            raise outcome.__cause__
            elif user == WORKER:
                one = transport.receiver(Entity(emails), prefetch=1)
                await one.open()
                await one.close()
            else:
                fresh = uuid4().hex[:6]
                topic = Topic[str](f"orders-{fresh}")
                await declare(transport, topic.subscription("billing"))
                longer = Entity(topic, options={"retention_s": 30 * 86400.0})
                await transport.apply(await transport.plan([longer]))

    return act


@pytest.mark.parametrize("user", [SETUP, WORKER, WEB])
async def test_none_is_needless(shop: Shop, user: str) -> None:
    """Without any one of its rights a user is refused something; to delete is the one that can be missing."""
    act = activity(shop, user)
    await act()
    own = [rule for rule in shop.rules if rule.principal == f"User:{shop.name}-{user}"]
    for rule in own:
        if rule.operation != AclOperation.DELETE:
            with shop.without(rule):
                async with asyncio.timeout(10):
                    with pytest.raises(AccessDenied):
                        await act()


async def test_they_are_no_more(shop: Shop) -> None:
    """Who publishes cannot consume, who works cannot declare, and nobody comes to what is not the application's."""
    async with opened(shop.url(WORKER), prefix=shop.prefix, **shop.settings) as transport:
        with pytest.raises(AccessDenied):
            await declare(transport, Queue("more"))
    for topology in ("assume", "create"):
        with pytest.raises(AccessDenied):
            async with shop.bus(WEB, topology, []).worker():
                pass
    async with shop.bus(WEB, "assume", None) as web:
        with pytest.raises(AccessDenied):
            [letter async for letter in web.dead_letters(emails).list()]
    for user, prefix, to in ((WEB, shop.prefix, Queue("others")), (WORKER, "elsewhere.", emails),
                             (SETUP, "elsewhere.", emails)):  # fmt: skip
        async with opened(shop.url(user), prefix=prefix, **shop.settings) as transport:
            (refused,) = await publish(transport, to, message())
            assert isinstance(refused, PublishFailed)
            assert isinstance(refused.__cause__, AccessDenied)
            if user == SETUP:
                with pytest.raises(AccessDenied):
                    await declare(transport, emails)


async def test_the_settings_are_for_who_may_see_them(shop: Shop) -> None:
    """To verify and to diagnose takes one right more, as the page says."""
    assert "--operation DescribeConfigs" in re.sub(r"^\$ACL .*$", "", PAGE.read_text(), flags=re.M)
    with pytest.raises(AccessDenied, match="settings"):
        async with shop.bus(WORKER, "verify", []).worker():
            pass
    more = AclBinding(
        ResourceType.TOPIC, shop.prefix, ResourcePatternType.PREFIXED, f"User:{shop.name}-{WORKER}", "*",
        AclOperation.DESCRIBE_CONFIGS, AclPermissionType.ALLOW,
    )  # fmt: skip
    shop.allow(more)
    async with shop.bus(WORKER, "verify", []).worker():
        pass
    async with opened(shop.url(WORKER), prefix=shop.prefix, **shop.settings) as transport:
        said = [finding.says for finding in await transport.diagnose()]
        assert any("on one server alone" in each for each in said)
    shop.take_away(more)


async def test_what_was_handled_is_deleted_by_who_may(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And who may not says so, once, and works all the same."""
    monkeypatch.setattr(receiver, "LOOK_S", 0.1)
    monkeypatch.setattr(receiver, "REFRESH_TURNS", 1)
    monkeypatch.setattr(forwarder, "PURGE_S", 0.1)
    (delete,) = [rule for rule in shop.rules if rule.operation == AclOperation.DELETE]
    handled: list[tuple[str, int]] = []

    def warnings() -> list[str]:
        return [record.message for record in caplog.records if "right to Delete" in record.message]

    async with shop.bus(WEB, "assume", None) as web, opened(shop.url(SETUP), **shop.settings) as looking:
        before = {topic: await begins(looking, shop, topic) for topic in ("emails", "bf--wait-last")}

        async def is_deleted() -> bool:
            return all([await begins(looking, shop, topic) > at for topic, at in before.items()])

        with caplog.at_level(logging.WARNING):
            async with shop.bus(WORKER, "assume", handled).worker() as running:
                await web.publish(emails, "mail", delay_s=0.1)
                await until(handled, 1, running)
                await eventually(is_deleted, "the mail is deleted, and where it waited")
                assert warnings() == []
                with shop.without(delete):
                    await web.publish(emails, "another", delay_s=0.1)
                    await until(handled, 2, running)

                    async def is_said() -> bool:
                        return len(warnings()) >= 2

                    await eventually(is_said, "it is said that nothing is deleted")
                    assert len(warnings()) == 2
                    assert sorted(warning.split(":")[0].split(",")[0] for warning in warnings()) == [
                        "emails", "what was forwarded is not deleted"
                    ]  # fmt: skip


async def begins(transport: Kafka, shop: Shop, topic: str) -> int:
    """How much of a topic was deleted."""
    places = await transport.admin.partitions_of(f"{shop.prefix}{topic}")
    return sum((await transport.admin.offsets(places, EARLIEST)).values())


async def test_a_right_that_is_taken_from_a_worker_is_missed(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """It does not stand still in silence, and goes on when it has the right again."""
    (groups,) = [
        rule
        for rule in shop.rules
        if rule.principal == f"User:{shop.name}-{WORKER}" and rule.restype == ResourceType.GROUP
    ]
    handled: list[tuple[str, int]] = []

    async def is_said() -> bool:
        return "may not commit" in caplog.text

    async with shop.bus(WEB, "assume", None) as web, shop.bus(WORKER, "assume", handled).worker() as running:
        with shop.without(groups):
            await web.publish(emails, "mail")
            await eventually(is_said, "the worker says why it stands still")
            assert handled == []
        await until(handled, 1, running)


async def test_who_may_write_nothing_is_told_so(shop: Shop) -> None:
    """A producer that may write nothing gets no number from the servers: nothing was sent, and that is said."""
    writes = [
        rule
        for rule in shop.rules
        if rule.principal == f"User:{shop.name}-{WEB}" and rule.operation == AclOperation.WRITE
    ]
    sees = AclBinding(
        ResourceType.TOPIC, f"{shop.prefix}emails", ResourcePatternType.LITERAL, f"User:{shop.name}-{WEB}", "*",
        AclOperation.DESCRIBE, AclPermissionType.ALLOW,
    )  # fmt: skip
    shop.allow(sees)
    shop.take_away(*writes)
    async with opened(shop.url(WEB), prefix=shop.prefix, **shop.settings) as transport:
        for outcome in await publish(transport, emails, *(left_over() for _ in range(300))):
            assert isinstance(outcome, PublishFailed)
            assert isinstance(outcome.__cause__, AccessDenied)
            assert not outcome.transient
            assert "write to no topic" in str(outcome)
        shop.allow(*writes)
        assert await publish(transport, emails, left_over()) == [None]
    shop.take_away(sees)


async def test_a_worker_that_could_not_give_a_message_up_does_not_begin(shop: Shop) -> None:
    """Else its first message that fails would hold up a partition for ever; at most once needs no such right."""
    (write,) = [
        rule
        for rule in shop.rules
        if rule.principal == f"User:{shop.name}-{WORKER}" and rule.operation == AclOperation.WRITE
    ]
    with shop.without(write):
        async with opened(shop.url(WORKER), prefix=shop.prefix, **shop.settings) as transport:
            refused = transport.receiver(Entity(emails), prefetch=1)
            with pytest.raises(AccessDenied, match=r"the right to Write on .*emails--"):
                await refused.open()
            early = transport.receiver(Entity(emails), prefetch=1, ack="before")
            await early.open()
            await early.close()
