"""The settings, in ``[transports.nats]`` or in the query of the URL."""

from pydantic import BaseModel, ConfigDict, SecretStr


class Settings(BaseModel):
    """What can be set for NATS. All times are in seconds, all sizes in bytes.

    Attributes:
        url: ``nats://user:password@host:4222,host2:4222``, or ``nats+tls://`` with the server's certificate verified.
            Never shown: it may hold the password.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr
