"""What a transport plugin implements and what it is given. ``docs/how-to`` shows one being written."""

from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address, DeadLetters, Queue, SourceAddress, Subscription, Topic, Where
from busframe.model.entity import Change, Entity, Finding, Stats, Stored
from busframe.model.message import Headers, Message
from busframe.model.settlement import ACK, RELEASE, Ack, DeadLetter, Nack, Release, Settlement
from busframe.spi.copy import copy_then_ack
from busframe.spi.plugin import SPI_VERSION, Plugin
from busframe.spi.transport import Host, Receiver, Transport

__all__ = [
    "ACK",
    "RELEASE",
    "SPI_VERSION",
    "Ack",
    "Address",
    "Capabilities",
    "Change",
    "DeadLetter",
    "DeadLetters",
    "Delivery",
    "Entity",
    "Finding",
    "Headers",
    "Host",
    "Message",
    "Nack",
    "Outgoing",
    "Plugin",
    "Queue",
    "Receiver",
    "Release",
    "Settlement",
    "SourceAddress",
    "Stats",
    "Stored",
    "Subscription",
    "Topic",
    "Transport",
    "Where",
    "copy_then_ack",
]
