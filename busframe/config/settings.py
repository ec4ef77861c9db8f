"""What can be configured, with its ranges and defaults."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from re import compile as pattern
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from busframe.config.secrets import mask
from busframe.errors import ConfigurationError
from busframe.logic.retry import Retry, RetryPolicy

_SCHEME = pattern(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PREFIX = pattern(r"(?:[A-Za-z0-9_.](?:[A-Za-z0-9_.]|-(?!-)){0,39})?")

Seconds = Annotated[float, Field(ge=0, lt=inf)]


class RetrySettings(BaseModel):
    """The numbers of a handler's ``Retry``; what is not said stays as the code says."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    max_attempts: int | None = Field(default=None, ge=1)
    delay_s: Seconds | None = None
    factor: float | None = Field(default=None, ge=1, lt=inf)
    max_delay_s: Seconds | None = None
    jitter: float | None = Field(default=None, ge=0, lt=inf)
    max_age_s: float | None = Field(default=None, gt=0)

    def over(self, policy: RetryPolicy) -> Retry:
        """A policy with these numbers in place of its own; its ``give_up_on`` and ``rules`` stay.

        Raises:
            ConfigurationError: the code's policy is not a ``Retry`` and has no such numbers.
        """
        if not isinstance(policy, Retry):
            raise ConfigurationError(
                f"the retry policy in the code is {policy!r}, not a Retry, so its numbers cannot be configured: remove "
                "the retry table of this handler, or make its policy a Retry"
            )
        return replace(policy, **self.model_dump(exclude_none=True))


class HandlerSettings(BaseModel):
    """What overrides a handler's decorator; None: as the decorator says."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    concurrency: int | None = Field(default=None, ge=1)
    prefetch: int | None = Field(default=None, ge=1)
    timeout_s: float | None = Field(default=None, gt=0)
    ordering: Literal["none", "key"] | None = None
    retry: RetrySettings | None = None


class Settings(BaseSettings):
    """The settings of a bus. Made by ``load``; made directly it takes only its arguments and reads nothing.

    Attributes:
        url: the broker; its scheme chooses the plugin. None: nobody said one.
        app: ``module:attribute``, for commands that are given no APP.
        prefix: goes before every name on the broker.
        topology: make what is missing on the broker; only compare; or neither.
        drain_timeout_s: how long handlers may finish when the worker ends, in seconds.
        connect_timeout_s: how long to try to reach the broker at start, in seconds; 0: once, inf: for ever.
        max_deliveries: a message that was delivered more often without a recorded failure is a crash loop; 3 to 90.
        max_lane_delay_s: the longest a retry may hold its key with ``ordering="key"``, in seconds.
        transports: options of each plugin, by its name.
        destinations: options of each queue and topic, by its name and the plugin's.
        handlers: what overrides the decorators, by the handler's name.
    """

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str | None = None
    app: str | None = None
    prefix: str = ""
    topology: Literal["create", "verify", "assume"] = "create"
    drain_timeout_s: float = Field(default=30.0, ge=0)
    connect_timeout_s: float = Field(default=30.0, ge=0)
    max_deliveries: int = Field(default=20, ge=3, le=90)  # below the limits that transports set on the broker
    max_lane_delay_s: Seconds = 300.0
    transports: dict[str, dict[str, Any]] = {}
    destinations: dict[str, dict[str, dict[str, Any]]] = {}
    handlers: dict[str, HandlerSettings] = {}

    @property
    def scheme(self) -> str | None:
        """The scheme of ``url``, in lower case."""
        found = _SCHEME.match(self.url or "")
        return found[1].lower() if found else None

    @field_validator("url")
    @classmethod
    def _has_a_scheme(cls, url: str | None) -> str | None:
        if url is not None and not _SCHEME.match(url):
            raise ValueError("must begin with a scheme that names the broker, such as amqp:// or memory://")
        return url

    @field_validator("app")
    @classmethod
    def _names_an_attribute(cls, app: str | None) -> str | None:
        if app is not None and not all(part.strip() for part in (app.partition(":")[0], app.partition(":")[2])):
            raise ValueError("must be module:attribute, such as shop:bus")
        return app

    @field_validator("prefix")
    @classmethod
    def _can_begin_names(cls, prefix: str) -> str:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError("must be at most 40 letters, digits and '-_.', without '--' and not beginning with '-'")
        return prefix

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but the arguments; ``load`` puts its own sources here."""
        return (init_settings,)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, mask(name or "", value)
