"""TLS: how a connection is secured, and what is wrong where the two sides do not agree."""

import re
import ssl
from pathlib import Path

from busframe.errors import AccessDenied, ConnectionFailed, TransportError
from busframe_rabbitmq.settings import Settings

_REASON = re.compile(r"\[SSL: (?P<reason>\w+)\] (?P<text>[^\[\]]*?)(?: \(_ssl\.c|$)")

_NAME = (
    "it is for another name: connect by a name that it has, or say that name in tls_server_name",
    ("hostname mismatch", "ip address mismatch"),
)
_TIME = ("it has to be renewed, unless this machine's clock is wrong", ("expired", "not yet valid"))
_AUTHORITY = "say the file of the authority that signed it in tls_ca_file"

_WANTS_CERTIFICATE = frozenset({"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"})
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
_REFUSED_CERTIFICATE = re.compile(r"_ALERT_(UNKNOWN_CA|(BAD|UNSUPPORTED)_CERTIFICATE|CERTIFICATE_\w+|ACCESS_DENIED)$")


def make_context(settings: Settings) -> ssl.SSLContext:
    """How to secure a connection, with the files as they are now: short-lived certificates are renewed on disk.

    Raises:
        ConnectionFailed: a file is missing or not what it should be; waiting does not help.
    """
    authority = _readable("tls_ca_file", settings.tls_ca_file)
    try:
        context = ssl.create_default_context(cafile=authority)
    except ssl.SSLError as error:
        raise _unusable(f"tls_ca_file: {authority} holds no certificate in PEM") from error
    certificate = _readable("tls_cert_file", settings.tls_cert_file)
    if certificate is not None:
        key = _readable("tls_key_file", settings.tls_key_file)
        password = settings.tls_key_password.get_secret_value() if settings.tls_key_password else ""
        try:
            context.load_cert_chain(certificate, key, password)  # with no password at all, OpenSSL asks the terminal
        except (ssl.SSLError, ValueError) as error:
            do = "is it the key of that certificate, and is tls_key_password right?"
            raise _unusable(f"the private key of {certificate} in {key or certificate} cannot be used: {do}") from error
    return context


def _readable(setting: str, file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        file.read_bytes()
    except OSError as error:
        raise _unusable(f"{setting}: {file} cannot be read: {error.strerror or error}") from error
    return str(file)


def _unusable(text: str) -> ConnectionFailed:
    return ConnectionFailed(text, transient=False)


def read_refusal(text: str) -> TransportError | None:
    """What OpenSSL's error means, and what to do; None: the text is not of one that waiting cannot mend.

    ``[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1006)``
    """
    found = _REASON.search(text)
    if found is None:
        return None
    reason, said = found["reason"], found["text"]
    if reason == "CERTIFICATE_VERIFY_FAILED":
        why = said.rpartition("verify failed: ")[2].rstrip(". ")
        do = next((do for do, words in (_NAME, _TIME) if any(word in why.lower() for word in words)), _AUTHORITY)
        return _unusable(f"the server's certificate is not accepted ({why}): {do}")
    if reason in _NO_TLS:
        return _unusable("the server speaks no TLS on this port: amqps:// usually has port 5671, amqp:// 5672")
    if reason in _WANTS_CERTIFICATE:
        return AccessDenied(f"the server refuses TLS without a client certificate ({said}): say tls_cert_file")
    if _REFUSED_CERTIFICATE.search(reason):
        return AccessDenied(f"the server refuses this client's certificate ({said}): see tls_cert_file")
    return None
