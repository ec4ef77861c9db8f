"""A script, or a web framework of plain functions: publishing without a loop."""

from contextlib import closing

from busframe import Bus, Message, SyncPublisher
from tests.typing.parcels import Accepted, Returned, labels, tracking

bus = Bus("memory://", uses=[labels, tracking])


def number_of(parcel: Accepted) -> str:
    return parcel.number


def accept(out: SyncPublisher, number: str) -> Message:
    return out.publish(labels, Accepted(number=number, weight_kg=1.0), key=number, timeout_s=2.0)


def main() -> None:
    with closing(bus.sync()) as out:
        assert accept(out, "P1").key == "P1"
        sent = out.publish_many(labels, (Accepted(number=str(n), weight_kg=n) for n in range(3)), keys=number_of)
        assert [message.key for message in sent] == ["0", "1", "2"]
        out.publish(tracking, Returned("P1", "torn"), headers={"depot": "north"}, ttl_s=3600, correlation_id=sent[0].id)


if __name__ == "__main__":
    main()
