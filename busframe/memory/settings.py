"""What can be configured, and the entry point."""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

from busframe.logic.size import FRAMEWORK_RESERVE_BYTES
from busframe.memory.broker import DEDUP_WINDOW_S, MAX_MESSAGE_BYTES
from busframe.memory.transport import MemoryTransport
from busframe.spi.plugin import Plugin
from busframe.spi.transport import Host

_URL = re.compile(r"memory:(?://([A-Za-z0-9_.-]*)/?)?")


class MemorySettings(BaseModel):
    """The options of ``memory://``.

    Attributes:
        url: ``memory://`` or ``memory://<name>``: clients of one process that say the same name share one broker.
        dedup_window_s: for how long a second write of one id to one destination is confirmed and not stored; 0: never.
            Each write within it is remembered.
        max_message_bytes: the most that a message may take, with what the framework adds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = "memory://"
    dedup_window_s: float = Field(default=DEDUP_WINDOW_S, ge=0, allow_inf_nan=False)
    max_message_bytes: int = Field(default=MAX_MESSAGE_BYTES, gt=FRAMEWORK_RESERVE_BYTES)

    @field_validator("url")
    @classmethod
    def _has_at_most_a_name(cls, url: str) -> str:
        if not _URL.fullmatch(url):
            raise ValueError("say memory:// or memory://<name>, with a name of letters, digits and '-_.'")
        return url

    @property
    def name(self) -> str:
        """Which broker of this process; empty: the unnamed one."""
        match = _URL.fullmatch(self.url)
        return (match.group(1) or "") if match else ""


def _create(settings: MemorySettings, host: Host) -> MemoryTransport:
    return MemoryTransport(
        host,
        name=settings.name,
        dedup_window_s=settings.dedup_window_s,
        max_message_bytes=settings.max_message_bytes,
    )


plugin = Plugin("memory", ("memory",), MemorySettings, _create)
