"""What the entry point ``files`` names, and what can be set. Importing it imports no transport."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from busframe.spi import Plugin

if TYPE_CHECKING:
    from busframe.spi import Host, Transport


class Settings(BaseModel):
    """The options of ``files://``, in the URL's query or in ``[transports.files]``.

    Attributes:
        url: ``files:///path/of/a/directory``; the directory is made where it is missing.
        lease_s: a consumer that gave no sign of life for so many seconds loses what it holds.
        poll_s: how often an idle consumer looks for messages, in seconds.
        max_message_bytes: the largest body with the application's headers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    lease_s: float = Field(default=30.0, ge=1.0, le=3600.0)
    poll_s: float = Field(default=0.03, ge=0.01, le=10.0)
    max_message_bytes: int = Field(default=16 * 1024 * 1024, ge=64 * 1024)

    @field_validator("url")
    @classmethod
    def _names_a_directory(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "files" or parts.netloc or len(parts.path) < 2:
            raise ValueError("say files:///path/of/a/directory, with three slashes")
        return url

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(unquote(urlsplit(self.url).path))


def create(settings: Settings, host: "Host") -> "Transport":
    """Make the transport; touches no file."""
    from busframe_files.transport import Files

    return Files(settings, host)


plugin = Plugin("files", ("files",), Settings, create)
