"""S: configuration says what is wrong with it and hides what is secret; nothing unsafe happens silently."""

import asyncio
import logging
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from busframe.bus import Bus
from busframe.config import load, transport_settings
from busframe.conformance.addresses import unreachable
from busframe.conformance.check import Violation, check
from busframe.conformance.checks.errors import error_of, of_class, opening
from busframe.conformance.harness import SECRET, NotRunnable
from busframe.conformance.world import World
from busframe.errors import BusframeError, ConnectionFailed, InvalidSettings, PluginBroken
from busframe.handling.context import Context
from busframe.registry import GROUP, find_plugin, list_plugins
from busframe.spi.plugin import Plugin


class _Everything(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter().format(record))


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """All that any library logs within the block, with its stacks."""
    handler, root = _Everything(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler.texts
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@check("S1", "unknown options are refused; no secret shows; URL, environment and table mean the same")
async def configuration(world: World) -> None:
    """With the plugin that takes the harness's URLs."""
    scheme = world.harness.scheme
    plugin = find_plugin(scheme)
    url = f"{scheme}://{world.run}.invalid" if world.harness.url is None else world.harness.url.partition("?")[0]
    with tempfile.TemporaryDirectory() as empty:
        _unknown_options(plugin, url, Path(empty))
        _said_anywhere(plugin, url, Path(empty))
        shown = _shown(plugin, f"{scheme}://kit:{SECRET}@127.0.0.1:1/x", Path(empty))
    with everything_logged() as logged:
        error = await opening(unreachable(world.harness) or f"{scheme}://kit:{SECRET}@127.0.0.1:1/x")
    of_class("opening a bus where nothing is", error, BusframeError)
    for what, text in {**shown, "an error": _all_of(error), "the log": "\n".join(logged)}.items():
        if SECRET in text:
            raise Violation(f"the password shows in {what}: {text}")


def _all_of(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.__cause__
    return "\n".join(texts)


def _settings(plugin: Plugin[Any], start: Path, arguments: Mapping[str, object], **environ: str) -> Any:
    configuration = load(arguments, start=start, environ=environ)
    return transport_settings(plugin, configuration.settings, configuration.origins)


def _unknown_options(plugin: Plugin[Any], url: str, start: Path) -> None:
    wrong: dict[str, dict[str, object]] = {
        "in the URL": {"url": f"{url}?no_such_option=1"},
        "in the plugin's table": {"url": url, "transports": {plugin.name: {"no_such_option": 1}}},
        "in the settings": {"url": url, "no_such_option": 1},
    }
    for where, arguments in wrong.items():
        try:
            _settings(plugin, start, arguments)
        except InvalidSettings as refused:
            if "no_such_option" not in str(refused):
                raise Violation(f"an unknown option {where} is refused without its name: {refused}") from refused
        else:
            raise Violation(f"an unknown option {where} is not refused")


def _said_anywhere(plugin: Plugin[Any], url: str, start: Path) -> None:
    numbers = {
        name: field.default
        for name, field in plugin.settings.model_fields.items()
        if type(field.default) in (int, float) and field.default > 0
    }
    name, default = next(iter(numbers.items()))
    variable = f"BUSFRAME_TRANSPORTS__{plugin.name}__{name}".upper()
    said = {
        "the URL": _settings(plugin, start, {"url": f"{url}?{name}={default + 1}"}),
        "the environment": _settings(plugin, start, {}, BUSFRAME_URL=url, **{variable: str(default + 1)}),
        "a table": _settings(plugin, start, {"url": url, "transports": {plugin.name: {name: default + 1}}}),
    }
    if getattr(said["the URL"], name) != default + 1 or len({repr(settings) for settings in said.values()}) > 1:
        raise Violation(f"{name} = {default + 1} does not mean the same everywhere: {said}")


def _shown(plugin: Plugin[Any], url: str, start: Path) -> dict[str, str]:
    """What can be printed of a configuration with a password."""
    configuration = load({"url": url}, start=start, environ={})
    shown = {"the repr of the settings": repr(configuration.settings), "their text": str(configuration.settings)}
    shown["the repr of a bus"] = repr(Bus(url))
    try:
        own = transport_settings(plugin, configuration.settings, configuration.origins)
    except InvalidSettings as refused:
        shown["an error about the settings"] = _all_of(refused)
    else:
        shown["the repr of the plugin's settings"] = f"{own!r} {own}"
    return shown


@check("S2", "TLS verifies by default: a server with a certificate of its own making gets nothing", tier="X")
async def verifies(world: World) -> None:
    """A listener of the kit's, with a self-signed certificate."""
    if world.harness.tls_scheme is None:
        raise NotRunnable(f"{world.harness.name} has no URLs with TLS")
    if (openssl := shutil.which("openssl")) is None:
        raise NotRunnable("there is no openssl to make a certificate with")
    got: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(100))
        writer.close()

    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
        making = await asyncio.create_subprocess_exec(
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        if await making.wait():
            raise NotRunnable("openssl made no certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await opening(f"{world.harness.tls_scheme}://kit:{SECRET}@127.0.0.1:{port}")
    if got:
        raise Violation(f"a server with a self-signed certificate was sent {got[0]!r}")
    of_class("a server with a self-signed certificate", error, ConnectionFailed)


@check("S3", "what is unsafe is said: what a confirmation is not worth, and what at-most-once loses")
async def unsafe_is_said(world: World) -> None:
    """``diagnose``; and ``ack="before"``, the word that an application has to say for it."""
    claims = await world.capabilities()
    queue = world.queue()
    transport = await world.open_client()
    findings = list(await transport.diagnose())
    if (not claims.durable or claims.confirm == "none") and all(finding.level == "ok" for finding in findings):
        raise Violation(f"messages do not outlive the broker here, and nothing warns of it: {findings}")
    vague = [finding for finding in findings if finding.level != "ok" and not (finding.says and finding.do)]
    if vague:
        raise Violation(f"a warning that does not say what is wrong and what to do: {vague}")
    bus = world.bus()

    @bus.handle(queue, ack="before")
    async def fail(body: str, ctx: Context) -> None:
        raise ValueError("lost by asking for it")

    with everything_logged() as logged:
        async with bus.worker():
            await world.send(bus, queue, "x")
            await world.until(lambda: bus.statistics()[str(queue)]["dropped"] == 1, "the drop to be counted")
    if len([text for text in logged if str(queue) in text and "at-most-once" in text]) != 1:
        raise Violation(f"a message of an at-most-once source is gone, and it is not said once: {logged}")
    world.watch(await world.receiver(transport, queue))


@check("S4", "a plugin that is broken breaks no other")
async def broken_plugin(world: World) -> None:
    """An installed distribution whose entry point cannot be imported."""
    broken = f"broken{uuid4().hex[:6]}"
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder) / f"{broken}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {broken}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{broken} = {broken}.missing:plugin\n")
        sys.path.insert(0, os.fspath(folder))
        try:
            states = {state.name: state for state in list_plugins()}
            found = find_plugin(world.harness.scheme)
            error = await error_of(_find(broken))
        finally:
            sys.path.remove(os.fspath(folder))
    if states.get(found.name) is None or states[found.name].state != "ok":
        raise Violation(f"a broken plugin breaks {found.name!r}: {states}")
    if [state.state for state in states.values() if state.schemes == (broken,)] != ["broken"]:
        raise Violation(f"the broken plugin is not shown as broken: {states}")
    of_class("the broken plugin", error, PluginBroken)
    if error is None or not isinstance(error.__cause__, ImportError):
        raise Violation(f"why a plugin is broken is lost: {error!r}")


async def _find(scheme: str) -> Plugin[Any]:
    return find_plugin(scheme)
