"""A parcel service: what several programs of this folder share, as an application's own module of names would be."""

from dataclasses import dataclass

from pydantic import BaseModel
from typing_extensions import TypedDict  # as pydantic asks before Python 3.12

from busframe import Queue, Topic, message_type


@message_type("parcel.accepted", "ParcelTaken")
class Accepted(BaseModel):
    number: str
    weight_kg: float


@dataclass(frozen=True)
class Returned:
    number: str
    reason: str


class Scan(TypedDict):
    number: str
    depot: int


tracking = Topic("tracking", Accepted, Returned)
labels = Queue("labels", Accepted)
notices = Queue("notices", str)
scans = Queue("scans", Scan)
anything = Queue("anything")
