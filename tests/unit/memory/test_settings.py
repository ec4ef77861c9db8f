"""Options, and what the entry point names."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

import busframe.memory
from busframe.memory import MemoryBroker, MemoryTransport, plugin
from busframe.memory.settings import MemorySettings
from busframe.spi import SPI_VERSION
from tests.unit.memory.virtual import VirtualClock, host


@pytest.mark.parametrize(
    ("url", "name"), [("memory://", ""), ("memory:", ""), ("memory://shop", "shop"), ("memory://shop/", "shop")]
)
def test_the_url_names_the_broker(url: str, name: str) -> None:
    """What follows the scheme is the broker's name."""
    assert MemorySettings(url=url).name == name


@pytest.mark.parametrize("url", ["memory://a/b", "memory://user:secret@a", "memory://a:1", "memory://a?b=c", "amqp://"])
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    """Hosts, ports, credentials and paths mean nothing here."""
    with pytest.raises(ValidationError, match="memory://<name>"):
        MemorySettings(url=url)


@pytest.mark.parametrize("option", [{"dedup": 1}, {"dedup_window_s": -1}, {"max_message_bytes": 1024}])
def test_a_wrong_option_is_refused(option: dict[str, object]) -> None:
    """Unknown options and impossible values are errors."""
    with pytest.raises(ValidationError):
        MemorySettings.model_validate(option)


async def test_the_plugin_makes_a_transport_of_its_settings(clock: VirtualClock) -> None:
    """What the settings say is what the transport claims."""
    assert (plugin.name, plugin.schemes, plugin.spi_version) == ("memory", ("memory",), SPI_VERSION)
    settings = plugin.settings(url="memory://settings", dedup_window_s=5, max_message_bytes=1024 * 1024)
    transport = plugin.create(settings, host(clock))
    assert transport.capabilities.dedup_window_s == 5
    assert transport.capabilities.max_message_bytes == (1024 - 48) * 1024
    await transport.open()
    assert isinstance(transport.native, MemoryBroker)
    assert transport.native.dedup_window_s == 5
    await transport.close()


def test_the_package_exports_three_names() -> None:
    """The package has what it promises and says so for what it has not."""
    assert busframe.memory.MemoryTransport is MemoryTransport
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        busframe.memory.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    """An application on another broker pays neither for pydantic nor for asyncio here."""
    program = "import sys, busframe.memory; print([name for name in ('pydantic', 'asyncio') if name in sys.modules])"
    # The packages above may load what they need themselves, so a bare interpreter with this one alone is asked.
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    above = subprocess.run(
        [sys.executable, "-c", program.replace("busframe.memory", "busframe")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == above.stdout
