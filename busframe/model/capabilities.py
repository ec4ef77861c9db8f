"""What a transport can do: what is claimed is proven by the conformance kit, what is not raises ``Unsupported``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from busframe.model.message import no_headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """A transport's claims; 0.0 and False mean: cannot.

    Attributes:
        durable: messages outlive a restart of the broker.
        confirm: what a successful publish is worth: nothing, written by one server, replicated.
        delivery_count: ``Delivery.deliveries`` is the broker's own count.
        attempt_exact: being handed back is not counted as an attempt.
        nack: a delayed nack is the broker's own, or a confirmed copy.
        dead_letter: a dead letter is the broker's own, or a confirmed copy.
        ordering: where the order of a key holds: nowhere, in one process, across all workers.
        filters: who evaluates ``where``.
        nack_delay_max_s: the longest delay of a nack, in seconds.
        publish_delay_max_s: the longest delay of a publish, in seconds.
        delay_resolution_s: by how much a delay may be off, in seconds.
        ack_lag_s: finished work up to this age may come back after a crash.
        ack_gap: so many finished messages above the oldest unfinished one may come back after a crash.
        hold_max_s: the longest an unsettled delivery may wait in a lane, in seconds.
        dedup_window_s: for how long a ``dedup_key`` is remembered, in seconds.
        max_message_bytes: the largest body and headers, without what the framework adds; None: no limit.
        start: a new subscription may start at ``earliest`` or at a time.
        temporary: subscriptions that vanish with their consumer.
        browse: any source can be looked at without taking.
        remove: single messages of any source can be removed.
        stats: depth and the like can be asked.
        why_not: of what is not claimed here but elsewhere, by name: what is in the way. For errors.
    """

    durable: bool
    confirm: Literal["none", "written", "replicated"]
    delivery_count: bool
    attempt_exact: bool
    nack: Literal["native", "copy"]
    dead_letter: Literal["native", "copy"]
    ordering: Literal["none", "process", "fleet"]
    filters: Literal["broker", "client"]
    nack_delay_max_s: float = 0.0
    publish_delay_max_s: float = 0.0
    delay_resolution_s: float = 0.1
    ack_lag_s: float = 0.0
    ack_gap: int = 0
    hold_max_s: float = 0.0
    dedup_window_s: float = 0.0
    max_message_bytes: int | None = None
    start: bool = False
    temporary: bool = False
    browse: bool = False
    remove: bool = False
    stats: bool = False
    why_not: Mapping[str, str] = field(default_factory=no_headers)
