from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from busframe.config import Settings, transport_settings
from busframe.errors import InvalidSettings
from busframe.spi import Host, Plugin, Transport


class Rabbit(BaseModel):
    url: str
    heartbeat_s: float = Field(default=60.0, gt=0)
    password: str = ""
    servers: list[str] = []
    frame: int = Field(default=1, alias="frameMax")


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


def create(settings: Any, host: Host) -> Transport:
    """Make no transport."""
    raise NotImplementedError


RABBIT = Plugin("rabbitmq", ("amqp", "amqps"), Rabbit, create)


def problems(url: str, transports: dict[str, dict[str, Any]] | None = None, /, **origins: str) -> list[str]:
    """What is wrong."""
    with pytest.raises(InvalidSettings) as caught:
        transport_settings(RABBIT, Settings(url=url, transports=transports or {}), origins)
    assert caught.value.__context__ is None
    return list(caught.value.problems)


def test_url_query_and_table() -> None:
    """The URL goes without its query into ``url``; the query goes before the table; repeated options are a list."""
    made = transport_settings(
        RABBIT,
        Settings(
            url="amqp://u:p@h/v?heartbeat_s=3&servers=a&servers=b&frameMax=2",
            transports={"rabbitmq": {"heartbeat_s": 5, "password": "x"}, "kafka": {"anything": 1}},
        ),
    )
    assert made == Rabbit(url="amqp://u:p@h/v", heartbeat_s=3.0, password="x", servers=["a", "b"], frameMax=2)


def test_unknown_options() -> None:
    """An unknown option names the close ones and where it was said, also where the plugin's model would ignore it."""
    found = problems(
        "amqp://h?heartbeet_s=3",
        {"rabbitmq": {"pasword": "secret", "url": "amqp://other"}},
        url="environment BUSFRAME_URL",
        **{"transports.rabbitmq.pasword": "busframe.toml"},
    )
    assert found == [
        "environment BUSFRAME_URL, in the URL: heartbeet_s is unknown; did you mean heartbeat_s?",
        "busframe.toml: transports.rabbitmq.pasword is unknown; did you mean password?",
        '[transports.rabbitmq]: url is said once, at the top: url = "amqp://…"',
    ]


def test_wrong_values() -> None:
    """A wrong value names the option and where it was said; a secret one is not repeated."""
    found = problems("amqp://h?heartbeat_s=0&servers=a", {"rabbitmq": {"password": 123456}})
    assert found == [
        "url, in the URL: heartbeat_s must be greater than 0, not '0'",
        "[transports.rabbitmq]: transports.rabbitmq.password must be a text, not '***'",
        "url, in the URL: servers must be a list, not 'a'",
    ]


def test_table_under_another_name() -> None:
    """A table that is close to the plugin's name, or named after its scheme, would be ignored: it is an error."""
    origins = {"transports.rabitmq.window": "busframe.toml"}
    assert problems("amqp://h", {"rabitmq": {"window": 1}, "amqp": {}}, **origins) == [
        "busframe.toml: the plugin is called rabbitmq: write [transports.rabbitmq] instead of [transports.rabitmq]",
        "configuration: the plugin is called rabbitmq: write [transports.rabbitmq] instead of [transports.amqp]",
    ]


def test_fragment() -> None:
    """A # in a URL cuts it, mostly a password's; it is refused and not shown."""
    (problem,) = problems("amqp://u:p#secret@h")
    assert problem == "url: the URL has a '#': write it as %23"
    (problem,) = problems("amqp://h1:1,[::1]:2/v#w")
    assert problem == "url: the URL has a '#': write it as %23"


def test_many_hosts() -> None:
    """They are the plugin's to read; no port of them is looked at here."""
    made = transport_settings(RABBIT, Settings(url="amqp://u:p@h1:5672,[::1]:5672,h3/v?heartbeat_s=3"))
    assert made == Rabbit(url="amqp://u:p@h1:5672,[::1]:5672,h3/v", heartbeat_s=3.0)


def test_model_that_allows_anything() -> None:
    """A plugin that takes any option gets them, and no url where it has no field for one."""
    made = transport_settings(Plugin("loose", ("loose",), Loose, create), Settings(url="loose://h?a=1"))
    assert made.model_dump() == {"a": "1"}
