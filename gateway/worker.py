"""A worker process: it does nothing but serve.

Control starts it with the listening socket and a channel, and pushes it tables of what to serve. It owns the queues
to the runners, its own series of log segments, and its metrics, of which it sends control a copy once a second.

    python -m gateway.worker --name w0 --socket FD --grpc-socket FD --channel FD --parent PID --settings JSON
"""

import argparse
import asyncio
import gc
import logging
import logging.config
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from bundles.schema import TensorSpec
from gateway.admission import Admission
from gateway.batching import RunnerQueue
from gateway.call_lines import CallLines
from gateway.channel import Channel
from gateway.data_app import VERSION, create_data_app
from gateway.extensions import Extensions
from gateway.grpc.limits import Limits
from gateway.grpc.server import GrpcServer
from gateway.head import LaneSettings
from gateway.keeping import Keeping
from gateway.keys import read_unit_key
from gateway.lane import lane_protocol
from gateway.ledger import AsyncLedger, Ledger
from gateway.lineage import die_with
from gateway.metrics import WorkerMetrics
from gateway.predict import Predictor
from gateway.questions import Questions
from gateway.routing import Route
from gateway.schema import Schema
from gateway.settings import LogSettings, SettingsError
from gateway.table import Model, Served, Table
from gateway.tracing import Exporter, Tracing
from gateway.worker_settings import WorkerSettings

log = logging.getLogger("snowgate.worker")

METRICS_SECONDS = 1.0
FLUSH_SECONDS = 3.0
"""How long spans may take to leave at the end: control grants five seconds more than the calls in flight get."""


class Worker:
    """Holds the parts of one worker and applies control's tables."""

    def __init__(self, name: str, settings: WorkerSettings, channel: Channel) -> None:
        self.name = name
        self.settings = settings
        self.channel = channel
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.ledger = _ledger(name, settings, self.metrics)
        self.tracing = Tracing(
            _exporter(name, settings, self.metrics),
            self.metrics,
            sample_ratio=settings.tracing["sample_ratio"],
            traces_per_second_max=settings.tracing["traces_per_second_max"],
        )
        self.predictor = Predictor(
            self.ledger,
            self.metrics,
            self.tracing,
            CallLines(access=settings.access_lines),
            timeout_seconds=settings.timeout_seconds,
            unit_key=read_unit_key(Path(settings.unit_key_file)),
            serves_unlogged=settings.log["on_failure"] == "serve",
        )
        self.questions = Questions(channel)
        self.extensions = Extensions(self.predictor, self.questions, self.send_metrics, changes=settings.repository_api)
        self.supplied = asyncio.Event()
        self._keeping = Keeping.of(LogSettings(**settings.log))
        self._own_keeping = {model: Keeping.of(LogSettings(**one)) for model, one in settings.models_log.items()}
        self._queues: dict[str, RunnerQueue] = {}
        self._retiring: list[RunnerQueue] = []
        self._revision = 0

    async def follow(self) -> None:
        """Apply every table that control sends, and take its answers, until control is gone."""
        async for message in self.channel.messages():
            if "answer" in message:
                self.questions.answered(message)
                continue
            await self._apply(message["table"])
            self._revision = message["table"]["revision"]
            self._tell()
            self.supplied.set()

    def _tell(self) -> None:
        """Tell control which table is in use, and which runners calls may still be with: it ends no other way."""
        self._retiring = [one for one in self._retiring if one.replicas]
        holds = [path for queue in (*self._queues.values(), *self._retiring) for path in queue.replicas]
        self.channel.send({"applied": self._revision, "holds": holds})

    async def _apply(self, wanted: dict[str, Any]) -> None:
        """Build the new table beside the old one, swap it, then let go of the queues that nobody needs."""
        served = {digest: await self._served(digest, entry) for digest, entry in wanted["runners"].items()}
        models = {}
        for name, entry in wanted["models"].items():
            versions = {one.version: one for one in served.values() if one.model == name}
            keeping = self._own_keeping.get(name, self._keeping)
            models[name] = Model(name, Route.parse(entry["route"], entry["revision"]), versions, keeping)
        self.predictor.table = Table(wanted["revision"], models)
        for digest in self._queues.keys() - wanted["runners"].keys():
            queue = self._queues.pop(digest)
            queue.retire()
            self._retiring.append(queue)

    async def _served(self, digest: str, entry: dict[str, Any]) -> Served:
        inputs, outputs = (tuple(TensorSpec(**spec) for spec in entry[side]) for side in ("inputs", "outputs"))
        schema = Schema(inputs, outputs)
        queue = self._queues.get(digest)
        if queue is None:
            queue = self._queues[digest] = RunnerQueue(
                f"model '{entry['model']}' version '{entry['version']}'",
                max_batch_size=entry["max_batch_size"],
                waiting_calls_max=self.settings.waiting_calls_max,
                schema=schema,
                hang_seconds=entry["hang_seconds"],
                on_batch=self.metrics.batch_counter(entry["model"], entry["version"]),
                on_hang=lambda path: self.channel.send({"hangs": path}),
                on_let_go=self._tell,
            )
        await queue.follow(entry["sockets"])
        return Served(
            model=entry["model"],
            version=entry["version"],
            digest=digest,
            platform=entry["platform"],
            engine=entry["engine"],
            schema=schema,
            queue=queue,
            serves_unlogged=entry["serves_unlogged"],
        )

    async def report(self) -> None:
        """Send control a copy of all that was counted, once a second."""
        while True:
            await asyncio.sleep(METRICS_SECONDS)
            self.send_metrics()

    def send_metrics(self) -> None:
        """Send what was counted so far, all at one moment: then the law of `log_watch` holds in it."""
        waiting = [[queue.name, queue.depth] for queue in self._queues.values()]
        records, seconds = self.ledger.undurable()
        log = {
            "in_flight": self.predictor.in_hands + sum(self.metrics.undurable.values()),
            "undurable": [records, seconds],
            "failing": self.ledger.failing,
        }
        self.channel.send({"metrics": self.metrics.families(), "waiting": waiting, "log": log})


def _ledger(name: str, settings: WorkerSettings, metrics: WorkerMetrics) -> Ledger:
    directory, log = Path(settings.log_directory), LogSettings(**settings.log)
    return Ledger(directory, name, log) if log.durability == "commit" else AsyncLedger(directory, name, log, metrics)


def _exporter(name: str, settings: WorkerSettings, metrics: WorkerMetrics) -> Exporter | None:
    """Return where spans go. OpenTelemetry's SDK is imported only here: 7 MB and a tenth of a second."""
    endpoint = settings.tracing["endpoint"]
    if endpoint is None:
        return None
    try:
        from gateway.spans import Spans  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        msg = f"{error}: sending spans to {endpoint} needs an extra: pip install 'snowgate[otel]'"
        raise SettingsError(msg) from error
    return Spans(endpoint, worker=name, environment=settings.environment, version=VERSION, metrics=metrics)


async def serve(
    name: str, listening: socket.socket, grpc: socket.socket | None, end: socket.socket, settings: WorkerSettings
) -> None:
    """Serve until SIGTERM or until control is gone; then answer what was accepted, and close the log.

    `grpc` is the listening socket for gRPC, where there is one.
    """
    channel = await Channel.open(end)
    worker = Worker(name, settings, channel)
    shared = LaneSettings(
        worker.predictor,
        Admission(keys=settings.keys, hosts=settings.hosts, origins=settings.origins),
        unit_header=settings.unit_header,
        body_bytes_max=settings.body_bytes_max,
        body_seconds=settings.body_seconds,
        header_seconds=settings.header_seconds,
        connections_max=settings.connections_max,
        waiting_bytes_max=settings.waiting_bytes_max,
    )
    config = uvicorn.Config(
        create_data_app(worker.predictor, worker.extensions, shared.admission),
        http=lane_protocol(shared),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )
    server = uvicorn.Server(config)
    grpc_server = _grpc_server(worker, shared)

    def drain() -> None:
        worker.predictor.draining = True
        server.should_exit = True
        grpc_server.drain()
        worker.supplied.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drain)
    following = asyncio.create_task(worker.follow())
    following.add_done_callback(lambda _task: drain())
    reporting = asyncio.create_task(worker.report())
    # Without a table every model would be unknown: until it is here, connections wait in the listening socket.
    await worker.supplied.wait()
    gc.collect()
    gc.freeze()  # A full collection of all that was imported takes 80 ms and more: seen as the tail of the latency.
    gc.set_threshold(50_000)  # A turn with 64 calls makes more objects than the default of 700, and keeps none.
    # uvicorn would hand SIGTERM on when it has drained, and end the process before the log is closed.
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    if grpc is not None and not worker.predictor.draining:
        await grpc_server.start(grpc)
    await server.serve(sockets=[listening])
    await grpc_server.drained()
    reporting.cancel()
    worker.predictor.unknown.close()
    worker.ledger.close()
    worker.tracing.close(FLUSH_SECONDS)
    await asyncio.sleep(0)  # The last calls of the log's thread are still to be resumed.
    worker.send_metrics()
    following.cancel()
    channel.close()


def _grpc_server(worker: Worker, shared: LaneSettings) -> GrpcServer:
    settings = worker.settings
    limits = Limits(
        message_bytes=settings.body_bytes_max,
        body_seconds=settings.body_seconds,
        connection_seconds=settings.grpc_connection_seconds,
        grace_seconds=settings.drain_seconds,
    )
    return GrpcServer(shared, worker.extensions, limits)


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


def main() -> None:
    """Start a worker; control builds the command line."""
    parser = argparse.ArgumentParser(prog="gateway.worker", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--grpc-socket", type=int)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--settings", required=True)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))  # One a connection; 1,024 are usual.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; control tells us when to end.
    settings = WorkerSettings(**orjson.loads(arguments.settings))
    logging.config.dictConfig(settings.logging)
    uvloop.run(
        serve(
            arguments.name,
            socket.socket(fileno=arguments.socket),
            None if arguments.grpc_socket is None else socket.socket(fileno=arguments.grpc_socket),
            socket.socket(fileno=arguments.channel),
            settings,
        )
    )


if __name__ == "__main__":
    main()
