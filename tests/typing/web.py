"""A web application that publishes and handles: an ASGI application by hand, as a framework would make it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from busframe import Bus, Publisher
from busframe.errors import PublishError, PublishOutcomeUnknown
from tests.typing.parcels import Accepted, labels

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

bus = Bus("memory://")
printed: asyncio.Queue[str] = asyncio.Queue()


@bus.handle(labels, name="print")
async def print_label(parcel: Accepted) -> None:
    await printed.put(parcel.number)


class Application:
    def __init__(self, lifespan: "Callable[[Application], Any]") -> None:
        self.lifespan = lifespan

    async def __call__(self, scope: Scope, body: bytes, send: Send) -> None:
        match scope["path"]:
            case "/parcels":
                await send(await accept(Accepted.model_validate_json(body), publisher()))
            case "/readyz":
                await send({"status": 200 if bus.health().ready else 503})
            case _:
                await send({"status": 404})


@asynccontextmanager
async def lifespan(app: Application) -> AsyncGenerator[None, None]:
    async with bus.worker(handlers=["print"]):
        yield


app = Application(lifespan)


def publisher() -> Publisher:
    return bus


async def accept(parcel: Accepted, out: Publisher) -> dict[str, Any]:
    try:
        sent = await out.publish(labels, parcel, key=parcel.number, timeout_s=2.0)
    except PublishOutcomeUnknown as unknown:
        return {"status": 504, "message": unknown.message_id}
    except PublishError as failed:
        return {"status": 503, "message": failed.message_id}
    return {"status": 202, "message": sent.id}


async def main() -> None:
    answers: list[dict[str, Any]] = []

    async def send(answer: dict[str, Any]) -> None:
        answers.append(answer)

    parcel = json.dumps({"number": "P1", "weight_kg": 2}).encode()
    async with app.lifespan(app):
        await asyncio.gather(app({"path": "/parcels"}, parcel, send), app({"path": "/readyz"}, b"", send))
        assert await printed.get() == "P1"
    await app({"path": "/readyz"}, b"", send)
    assert sorted(answer["status"] for answer in answers) == [200, 202, 503]


if __name__ == "__main__":
    asyncio.run(main())
