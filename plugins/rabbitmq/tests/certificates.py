"""Certificates, and a real server that is made to demand them."""

import base64
import ssl
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from trustme import LeafCert

from tests.brokers.rabbitmq import RabbitMQ

# Where the server listens is asked, not said: that is another address in a container.
_LISTEN = """\
Found = [{{IP, Port}} || {{listener, _, Protocol, _, IP, Port, _}} <- rabbit_networking:node_listeners(node()),
         lists:member(Protocol, [amqp, 'amqp/ssl'])],
lists:foreach(fun({{IP, Port}}) -> rabbit_networking:stop_tcp_listener({{inet:ntoa(IP), Port}}) end, Found),
[{{At, On}} | _] = Found,
Options = [
    {{cacerts, [{authority}]}}, {{cert, [{certificate}]}}, {{key, {{'PrivateKeyInfo', {key}}}}},
    {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}],
% The address is in use until the connections of the last listener have ended.
Start = fun Try(Left) ->
    case rabbit_networking:start_ssl_listener({{inet:ntoa(At), On}}, Options, 1, 1) of
        ok -> ok;
        _ when Left > 0 -> timer:sleep(100), Try(Left - 1)
    end
end,
ok = Start(200).
"""


def serve_tls(server: RabbitMQ, certificate: LeafCert, authority: bytes) -> str:
    """Let a server take connections with TLS alone, from clients with a certificate of that authority (PEM).

    Returns:
        The URL, with the host ``localhost``.
    """
    server.ctl(
        "eval",
        _LISTEN.format(
            authority=_erlang(ssl.PEM_cert_to_DER_cert(authority.decode())),
            certificate=_erlang(ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())),
            key=_erlang(_key(certificate, Encoding.DER)),
        ),
    )
    return server.url.replace("amqp://", "amqps://").replace("127.0.0.1", "localhost")


def allow_external(server: RabbitMQ) -> None:
    """Let clients log in by their certificate: its common name is the user."""
    server.ctl(
        "eval",
        "{ok, File} = application:get_env(rabbit, enabled_plugins_file), "
        "{ok, [Enabled]} = file:consult(File), Wanted = Enabled ++ [rabbitmq_auth_mechanism_ssl], "
        'ok = file:write_file(File, io_lib:format("~p.", [Wanted])), '
        "{ok, _, _} = rabbit_plugins:ensure(File), "
        "application:set_env(rabbit, auth_mechanisms, ['PLAIN', 'EXTERNAL']), "
        "application:set_env(rabbit, ssl_cert_login_from, common_name), "
        "application:set_env(rabbit, ssl_options, [{verify, verify_peer}, {fail_if_no_peer_cert, true}]).",
    )


def write(folder: Path, name: str, certificate: LeafCert, password: str = "") -> tuple[Path, Path]:
    """Write a certificate and its private key, encrypted where there is a password. Returns the two files."""
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    key.write_bytes(_key(certificate, Encoding.PEM, password))
    return chain, key


def _key(certificate: LeafCert, encoding: Encoding, password: str = "") -> bytes:
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(encoding, PrivateFormat.PKCS8, encryption)


def _erlang(value: bytes) -> str:
    return f'base64:decode(<<"{base64.b64encode(value).decode()}">>)'
