"""What the shop says to itself: the payloads, where they are published, and who reads them."""

from pydantic import BaseModel

from busframe import Queue, Topic


class OrderCreated(BaseModel):
    order_id: int
    customer: str
    total: float


class OrderCancelled(BaseModel):
    order_id: int


class OrderPaid(BaseModel):
    order_id: int
    total: float


class Email(BaseModel):
    to: str
    subject: str


OrderEvent = OrderCreated | OrderCancelled | OrderPaid

orders = Topic("order-events", OrderCreated, OrderCancelled, OrderPaid)
emails = Queue("email-queue", Email)

inventory = orders.subscription("inventory", where={"eventType": ["OrderCreated", "OrderCancelled"]})
payment = orders.subscription("payment", where={"eventType": "OrderCreated"})
notification = orders.subscription("notification", where={"eventType": "OrderCreated", "priority": ["high", "normal"]})
analytics = orders.subscription("analytics")  # no filter: everything


def headers_of(event: OrderEvent) -> dict[str, str]:
    """What the filters look at. Every fourth order is urgent, and every fourth is not urgent at all."""
    priority = {0: "high", 1: "low"}.get(event.order_id % 4, "normal")
    return {"eventType": type(event).__name__, "priority": priority}


def key_of(event: OrderEvent) -> str:
    """Events of one order stay in order where the reader asks for it."""
    return f"order-{event.order_id}"


def sample_events(count: int) -> list[OrderEvent]:
    """So many orders; every fifth is cancelled as soon as it was made."""
    events: list[OrderEvent] = []
    for order_id in range(1, count + 1):
        events.append(OrderCreated(order_id=order_id, customer=f"customer-{order_id % 9 + 1}", total=10.0 + order_id))
        if order_id % 5 == 0:
            events.append(OrderCancelled(order_id=order_id))
    return events
