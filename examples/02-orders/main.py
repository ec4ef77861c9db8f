"""An online shop: order events, four departments that read them, and an e-mail queue.

    python main.py                               in memory
    python main.py --url amqp://localhost        the same code on RabbitMQ
    python main.py --url nats://localhost        … and on NATS

Which orders go wrong is decided by their number, so that every run tells the same story.
"""

import argparse
import asyncio
import logging
import os
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from busframe import Bus, Context, Message, Retry, SyncContext
from busframe.errors import BusframeError
from events import (
    Email,
    OrderCancelled,
    OrderCreated,
    OrderEvent,
    OrderPaid,
    analytics,
    emails,
    headers_of,
    inventory,
    key_of,
    notification,
    orders,
    payment,
    sample_events,
)
from ledger import Ledger

ledger = Ledger(f"run-{uuid.uuid4().hex[:12]}", [inventory, payment, notification, analytics, emails])
bus = Bus(uses=[orders, emails], middleware=[ledger.on_handle], publish_middleware=[ledger.on_publish])


class GatewayBusy(Exception):
    """The card gateway asks to try again."""


class CardDeclined(Exception):
    """No retry will help."""


# Inventory: an order's cancellation may not overtake its creation, whatever takes longer.


@bus.handle(inventory, only=OrderCreated, ordering="key", unmatched="dead-letter")
async def reserve_stock(order: OrderCreated) -> None:
    await asyncio.sleep(0.01)


@bus.handle(inventory, only=OrderCancelled)
async def put_back_stock(order: OrderCancelled) -> None:
    await asyncio.sleep(0.001)


# Payment: a busy gateway is worth several attempts, a declined card is worth none.


@bus.handle(
    payment,
    only=OrderCreated,
    unmatched="dead-letter",
    timeout_s=10.0,
    retry=Retry(
        max_attempts=3,
        delay_s=1.0,
        rules={GatewayBusy: Retry(max_attempts=8, delay_s=0.3, factor=1.5, jitter=0.0)},
        give_up_on=(CardDeclined,),
    ),
)
async def charge(order: OrderCreated, ctx: Context) -> None:
    await asyncio.sleep(0.005)  # the gateway's answer
    if order.order_id % 10 == 7:
        raise CardDeclined(f"{order.customer} has no money")
    if order.order_id % 6 == 0 and ctx.attempt == 1:
        ledger.say(order.order_id, "the card gateway is busy: once more, a little later", "yellow")
        raise GatewayBusy("503 try again")
    paid = OrderPaid(order_id=order.order_id, total=order.total)
    await ctx.publish(orders, paid, key=key_of(paid), headers=headers_of(paid))
    if ctx.attempt > 1:
        ledger.say(order.order_id, f"is paid, at attempt {ctx.attempt}", "green")


@bus.handle(payment.dead_letters)
async def ask_for_another_card(letter: Message, ctx: Context) -> None:
    order = OrderCreated.model_validate_json(letter.body)
    assert letter.dead is not None
    ledger.say(order.order_id, f"is a dead letter ({letter.dead.reason}: {letter.dead.error_message})", "red")
    await ctx.publish(emails, Email(to=order.customer, subject=f"Order {order.order_id}: your card was declined"))


# Notification: urgent and normal orders are confirmed by e-mail. The filter is the subscription's, so that the others
# never come here.


@bus.handle(notification, only=OrderCreated, unmatched="dead-letter")
async def confirm(order: OrderCreated, ctx: Context) -> None:
    await ctx.publish(emails, Email(to=order.customer, subject=f"Order {order.order_id}: thank you"))


# A plain function runs in a thread; three of them send at once.


@bus.handle(emails, concurrency=3)
def send_email(email: Email, ctx: SyncContext) -> None:
    time.sleep(0.01)  # the mail server's answer


# Analytics: every event, whatever it is.


@bus.handle(analytics)
async def record(event: OrderEvent) -> None:
    pass


# --------------------------------------------------------------------------------------------------- the demonstration


async def demonstrate(count: int) -> bool:
    """Publish so many orders, handle everything that follows from them, and say whether nothing is missing."""
    url = urlsplit(bus.configuration().require_url())
    ledger.console.print(f"\n{count} orders come in, on {url.scheme}://{url.hostname or ''}\n", style="bold")
    async with bus.worker():
        for event in sample_events(count):
            await bus.publish(orders, event, key=key_of(event), headers=headers_of(event), correlation_id=ledger.run)
        complete = await ledger.complete(patience_s=15.0)
    ledger.print_table({plan.source: plan.concurrency for plan in bus.plans()})
    events = ", ".join(
        f"{len(ledger.by_type[kind.__name__])} {kind.__name__}" for kind in (OrderCreated, OrderCancelled, OrderPaid)
    )
    late = ledger.out_of_order(inventory, "OrderCreated", "OrderCancelled")
    ledger.console.print(f"\nThe events: {events}. Cancellations that overtook their order: {late}.")
    if complete:
        ledger.console.print("Everything that was published is accounted for.\n", style="bold green")
    else:
        missing = ", ".join(f"{count} of {source}" for source, count in ledger.missing().items())
        ledger.console.print(f"Not accounted for: {missing}. Does another worker run here?\n", style="bold red")
    return complete and not late


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish the orders of an online shop, and handle them.")
    parser.add_argument("--url", help="the broker, such as amqp://localhost; default: in memory")
    parser.add_argument("--orders", type=int, default=30, metavar="N", help="how many (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.orders < 0:
        parser.error("--orders: 0 or more")
    os.environ.setdefault("BUSFRAME_CONFIG", str(Path(__file__).with_name("busframe.toml")))
    bus.override({"url": arguments.url})
    logging.basicConfig(level=logging.ERROR)  # a dead letter is a warning, and this story has some on purpose
    try:
        return 0 if asyncio.run(demonstrate(arguments.orders)) else 1
    except BusframeError as error:
        print(f"Error: {error}", file=sys.stderr)
    except KeyboardInterrupt:  # what was being handled has been finished
        print("Stopped.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
