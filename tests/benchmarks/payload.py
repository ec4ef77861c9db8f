"""What every contender sends: about 256 bytes of JSON, validated by pydantic."""

from pydantic import BaseModel


class Order(BaseModel):
    """An order."""

    order_id: int
    customer: str
    total: float
    note: str


ORDER = Order(order_id=1, customer="customer-1", total=12.5, note="x" * 180)
BODY = ORDER.model_dump_json().encode()
