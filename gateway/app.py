"""The one place where everything is put together: a gateway, from its settings to its last file closed.

`run_gateway` is one straight line on purpose: nearly every step needs what an earlier one made, and teardown is the
same line read backwards.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import uvicorn
from fastapi import FastAPI

from bundles.home import Home
from gateway.admin import create_app
from gateway.answers import Answers
from gateway.audit import now
from gateway.beside import beside
from gateway.checkpoints import Checkpoints
from gateway.control import Control
from gateway.export import process as export
from gateway.export.delivery import read_headers
from gateway.keeping import Keeping
from gateway.keys import key_digests
from gateway.labels import Labels
from gateway.operations import Operations
from gateway.repository import Repository
from gateway.settings import Settings, SettingsError
from gateway.statistics import statistics_json
from monitors.incidents import Incidents
from monitors.log.recovery import recover_all
from monitors.outages import Outages
from state.sqlite import SqliteState

log = logging.getLogger("snowgate.control")

GRPC_OFFSET = 1
CONTROL_OFFSET = 2
READY_SECONDS = 120.0
JOIN_SECONDS = 2.0
"""How often labels without a prediction are looked at, and for how long: nothing where there are none."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running gateway is reached."""

    http: str
    grpc: str | None
    """Host and port, as gRPC clients take it; None when it is switched off."""
    control: str

    def to_json(self) -> dict[str, Any]:
        """Return what scripts read."""
        return {"http": self.http, "grpc": self.grpc, "control": self.control}


async def run_gateway(home: Home, settings: Settings, on_ready: Callable[[Addresses], None]) -> None:
    """Serve a home until SIGTERM or SIGINT; `on_ready` is called when every deployment has gone as far as it can.

    Raises:
        SettingsError: another address than loopback without keys; a port that is in use; tracing without its extra;
            redaction without its extra, or by a path that is none; headers of the export that can't be read.
        HomeError: the home can't be written, or is served already.
        PolicyError: the policy can't be read.
    """
    check_exposure(settings)
    check_tracing(settings)
    check_export(settings)
    check_keeping(settings)
    home.make().policy()  # One that can't be read would refuse every bundle, later, and one by one.
    with ExitStack() as files:
        files.enter_context(home.lock())
        for damage in recover_all(home.log):
            log.error("prediction log: %s", damage)
        if settings.export.url is not None:
            export.begin(home.log)
        sockets, admin = files.enter_context(listening(settings))
        state = SqliteState(home.state)
        files.callback(state.close)
        addresses = _addresses(sockets, admin)
        async with AsyncExitStack() as processes:
            page_links = settings.page.console_url or addresses.control
            outages = Outages(state, page_links, settings.server.environment, now)
            control = Control(home, state, settings, sockets, outages)
            operations = Operations(home, state, Incidents(state, now))
            files.callback(operations.labels.close)
            app = _admin_app(operations, control, settings)
            server = _admin_server(app)
            ending = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, ending.set)
            serving = asyncio.create_task(server.serve(sockets=[admin]))
            processes.push_async_callback(_end_admin, app, server, serving)
            joining = asyncio.create_task(_join_labels(operations.labels, ending))
            processes.push_async_callback(_ended, joining, ending)
            processes.push_async_callback(Checkpoints(home, state, settings.log.checkpoint_seconds).close)
            control.start(beside(home, settings, page_links), _answers(operations, control, settings))
            processes.push_async_callback(control.stop)
            await _until_ready(control, ending)
            if not ending.is_set():
                on_ready(addresses)
                await ending.wait()
            log.info("draining: calls in flight have %.0f s", settings.server.drain_seconds)


def _answers(operations: Operations, control: Control, settings: Settings) -> Answers:
    """What workers may ask."""
    server = settings.server
    repository = Repository(operations, server.environment, changes=server.repository_api, followed=control.followed)

    async def statistics() -> list[dict[str, Any]]:
        return statistics_json(control.families())

    return {"index": repository.index, "load": repository.load, "unload": repository.unload, "statistics": statistics}


async def _join_labels(labels: Labels, ending: asyncio.Event) -> None:
    """Join labels that came before their predictions, or were more than one call had time for."""
    while not ending.is_set():
        try:
            await asyncio.to_thread(labels.keep_joining, JOIN_SECONDS)
        except Exception:
            log.exception("labels could not be joined; tried again in %.0f s", JOIN_SECONDS)
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), JOIN_SECONDS)


async def _ended(task: asyncio.Task[None], ending: asyncio.Event) -> None:
    ending.set()
    await task


def check_exposure(settings: Settings) -> None:
    """Refuse an address that others can reach when nobody would be asked for a key. Raises SettingsError."""
    server = settings.server
    if settings.loopback or server.insecure:
        if server.api_keys_file is not None:
            _check_key_file(settings)
        return
    if server.api_keys_file is None:
        msg = (
            f"--host {server.host}: others can reach this address; give --api-keys-file FILE (one key a line), "
            "or --insecure if something before it checks who calls"
        )
        raise SettingsError(msg)
    _check_key_file(settings)


def check_tracing(settings: Settings) -> None:
    """Refuse an endpoint for spans that nobody here could send. Raises SettingsError."""
    if settings.tracing.endpoint is None:
        return
    try:
        distribution("opentelemetry-exporter-otlp-proto-http")
    except PackageNotFoundError as error:
        msg = f"tracing.endpoint = {settings.tracing.endpoint}: needs an extra, pip install 'snowgate[otel]'"
        raise SettingsError(msg) from error


def check_export(settings: Settings) -> None:
    """Refuse a file of headers that can't be sent. Raises SettingsError."""
    try:
        read_headers(settings.export.header_file)
    except (OSError, ValueError) as error:
        msg = f"export.header_file = {settings.export.header_file}: {error}"
        raise SettingsError(msg) from error


def check_keeping(settings: Settings) -> None:
    """Refuse a rule for what the log keeps that the workers could not follow. Raises SettingsError."""
    for log_settings in (settings.log, *map(settings.log_of, settings.models)):
        Keeping.of(log_settings)


def _check_key_file(settings: Settings) -> None:
    try:
        digests = key_digests(settings)
    except OSError as error:
        msg = f"--api-keys-file {settings.server.api_keys_file}: {error.strerror}"
        raise SettingsError(msg) from error
    if not digests:
        msg = f"--api-keys-file {settings.server.api_keys_file}: holds no key, expected one a line"
        raise SettingsError(msg)


@contextmanager
def listening(settings: Settings) -> Iterator[tuple[dict[str, socket.socket], socket.socket]]:
    """Open the ports: the workers', by the flags under which they get them, and the control port.

    Raises:
        SettingsError: one of them is in use.
    """
    server, ports = settings.server, port_numbers(settings)
    with ExitStack() as sockets:
        workers = {"--socket": sockets.enter_context(_listen(server.host, ports["data"], "--port"))}
        if "gRPC" in ports:
            workers["--grpc-socket"] = sockets.enter_context(_listen(server.host, ports["gRPC"], "--grpc-port"))
        admin = sockets.enter_context(_listen(server.host, ports["control"], "--port"))
        yield workers, admin


def port_numbers(settings: Settings) -> dict[str, int]:
    """Return the number of each port by what it is for; 0 stands for a free one, and what is switched off is left out.

    >>> port_numbers(Settings())
    {'data': 8080, 'gRPC': 8081, 'control': 8082}
    """
    server = settings.server
    ports = {"data": server.port}
    if server.grpc:
        beside = server.port + GRPC_OFFSET if server.port else 0
        ports["gRPC"] = beside if server.grpc_port is None else server.grpc_port
    return ports | {"control": server.port + CONTROL_OFFSET if server.port else 0}


def _listen(host: str, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        msg = f"{host} port {port}: {error.strerror}; give another with {flag}, or {flag} 0 for a free one"
        raise SettingsError(msg) from error


def _admin_app(operations: Operations, control: Control, settings: Settings) -> FastAPI:
    digests = key_digests(settings)
    return create_app(
        operations,
        families=control.families,
        ready=lambda: control.ready,
        allowed_hosts=["127.0.0.1", "localhost", "[::1]"] if settings.loopback else ["*"],
        key_digests=None if digests is None else frozenset(digests),
    )


def _admin_server(app: FastAPI) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    # Signals are ours: the order of the end is decided in one place.
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    return server


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


async def _end_admin(app: FastAPI, server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    app.state.live.end()  # Pages that are looked at hold a stream open; it would be waited for.
    server.should_exit = True
    await asyncio.gather(serving, return_exceptions=True)


async def _until_ready(control: Control, ending: asyncio.Event) -> None:
    deadline = asyncio.get_running_loop().time() + READY_SECONDS
    while not control.ready and not ending.is_set():
        if asyncio.get_running_loop().time() > deadline:
            log.warning("not everything is deployed after %.0f s; serving what is", READY_SECONDS)
            return
        await asyncio.sleep(0.02)


def _addresses(workers: Mapping[str, socket.socket], admin: socket.socket) -> Addresses:
    grpc = workers.get("--grpc-socket")
    return Addresses(
        http=_url(workers["--socket"]),
        grpc=None if grpc is None else _url(grpc).removeprefix("http://"),
        control=_url(admin),
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
