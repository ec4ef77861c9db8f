"""What an application is configured to do, and where that was said.

Strongest first: command-line options, arguments of ``Bus``, ``BUSFRAME_*`` in the environment, the chosen profile,
``busframe.toml``, defaults. Imported when a bus opens, never by ``import busframe``.
"""

from busframe.config.loading import Configuration, load
from busframe.config.secrets import mask, mask_url
from busframe.config.settings import HandlerSettings, RetrySettings, Settings
from busframe.config.transport import transport_settings

__all__ = [
    "Configuration",
    "HandlerSettings",
    "RetrySettings",
    "Settings",
    "load",
    "mask",
    "mask_url",
    "transport_settings",
]
