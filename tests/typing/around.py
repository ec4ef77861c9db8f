"""Middleware around handlers and around publishing."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from busframe import Bus, Context, Destination, Message, Middleware, Next, PublishMiddleware, SyncContext
from busframe.middleware import Logging, Timeout
from tests.typing.parcels import notices

tenant: ContextVar[str] = ContextVar("tenant", default="none")
steps: list[str] = []


async def as_tenant(ctx: Context, call_next: Next) -> object:
    token = tenant.set(ctx.message.headers.get("tenant", "none"))
    try:
        return await call_next()
    finally:
        tenant.reset(token)


class Step:
    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, ctx: Context, call_next: Next, /) -> object:
        steps.append(f"{self.name} before")
        result = await call_next()
        steps.append(f"{self.name} after")
        return result


async def say_tenant(to: Destination[Any], message: Message, send: Callable[[Message], Awaitable[None]]) -> None:
    await send(replace(message, headers={**message.headers, "tenant": tenant.get()}))


async def not_twice(to: Destination[Any], message: Message, send: Callable[[Message], Awaitable[None]]) -> None:
    if message.body != b"twice":
        await send(message)


chain: list[Middleware] = [as_tenant, Step("outer"), Logging()]
publishing: tuple[PublishMiddleware, ...] = (say_tenant, not_twice)
bus = Bus("memory://", middleware=chain, publish_middleware=publishing)


@bus.handle(notices, middleware=[Step("inner"), Timeout(5.0)])
def read(notice: str, ctx: SyncContext) -> None:
    steps.append(f"{notice} for {tenant.get()}")
    if notice == "first":
        ctx.publish(notices, "second")


async def main() -> None:
    tenant.set("acme")
    async with bus.worker() as worker:
        await bus.publish(notices, "first")
        await bus.publish(notices, "twice")
        await worker.wait_idle(0.01)
    once = ["outer before", "inner before", "{} for acme", "inner after", "outer after"]
    assert steps == [line.format(name) for name in ("first", "second") for line in once] or len(steps) == 10
    assert "second for acme" in steps


if __name__ == "__main__":
    asyncio.run(main())
