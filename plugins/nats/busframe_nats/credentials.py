"""Who we are, and how the connection is secured, as nats-py's ``connect`` takes it."""

from typing import Any

import nkeys

from busframe.errors import ConnectionFailed
from busframe_nats.settings import Server, Settings
from busframe_nats.tls import make_context

_JWT, _SEED = "BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"


def credentials(settings: Settings, server: Server) -> dict[str, Any]:
    """Who we are.

    Raises:
        ConnectionFailed: a file cannot be used; waiting does not help.
    """
    if settings.credentials_file is not None:
        file = settings.credentials_file
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConnectionFailed(f"credentials_file: {file} cannot be read: {error}", transient=False) from error
        if _JWT not in text or _SEED not in text:  # nats-py would look for them for ever
            raise ConnectionFailed(f"credentials_file: {file} holds no user's JWT and seed", transient=False)
        return {"user_credentials": str(file)}
    if settings.nkey_seed is not None:
        seed = settings.nkey_seed.get_secret_value()
        try:
            nkeys.from_seed(bytearray(seed.encode()))
        except Exception:  # whose text or cause may hold the seed
            raise ConnectionFailed("nkey_seed is no seed of a key pair", transient=False) from None
        return {"nkeys_seed_str": seed}
    if settings.token is not None:
        return {"token": settings.token.get_secret_value()}
    if server.user is not None:
        return {"user": server.user, "password": server.password or ""}
    return {}


def security(settings: Settings, server: Server) -> dict[str, Any]:
    """How the connection is secured."""
    if not server.tls:
        return {}
    return {
        "tls": make_context(settings),
        "tls_hostname": settings.tls_server_name or server.host,
        "tls_handshake_first": settings.tls_first,
    }
