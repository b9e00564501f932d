"""A worker's gRPC port: its connections, and who answers which method."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from random import uniform

from gateway.errors import Unsupported
from gateway.extensions import Extensions
from gateway.grpc.connection import Connection
from gateway.grpc.health import PREFIX as HEALTH
from gateway.grpc.health import Health
from gateway.grpc.infer import InferCall, InferStream
from gateway.grpc.limits import Limits
from gateway.grpc.reflection import PATHS as REFLECTION
from gateway.grpc.reflection import Reflect
from gateway.grpc.service import PREFIX as INFERENCE
from gateway.grpc.service import Service
from gateway.grpc.stream import Handler, Stream
from gateway.grpc.unary import UnaryCall
from gateway.head import LaneSettings
from gateway.schema import shown

TICK_SECONDS = 0.5
"""How often late bodies, ages and watched states are looked at."""
AGE_SPREAD = 0.1
"""Connections live this much longer or shorter, so that those that came together do not all leave together."""
OPEN_PATHS = frozenset({f"{INFERENCE}ServerLive", f"{INFERENCE}ServerReady"})


class GrpcServer:
    """Accepts connections from a listening socket until it is drained."""

    def __init__(self, shared: LaneSettings, extensions: Extensions, limits: Limits) -> None:
        """`shared` is what this worker's connections of both kinds share."""
        predictor = shared.predictor
        self._limits = limits
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._draining = False
        self._empty = asyncio.Event()
        self._health = Health(predictor)
        self._handlers: dict[str, Callable[[Stream], Handler]] = {
            f"{INFERENCE}ModelInfer": lambda stream: InferCall(stream, predictor),
            f"{INFERENCE}ModelStreamInfer": lambda stream: InferStream(stream, predictor, shared.waiting),
            f"{HEALTH}Watch": self._health.watch,
            **dict.fromkeys(REFLECTION, Reflect),
        }
        self._methods = {**Service(predictor, extensions).methods, **self._health.methods}
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, listening: socket.socket) -> None:
        """Begin to accept connections."""
        self._server = await self._loop.create_server(self._connection, sock=listening)
        self._tick()

    def drain(self) -> None:
        """Accept no more, and end every connection gently."""
        self._draining = True
        if self._server is not None:
            self._server.close()
        self._health.tell()
        for connection in list(self._connections):
            connection.drain()
        if not self._connections:
            self._empty.set()

    async def drained(self) -> None:
        """Wait until every connection has ended; the limits say when they must."""
        await self._empty.wait()
        if self._timer is not None:
            self._timer.cancel()

    def _connection(self) -> Connection:
        age = self._limits.connection_seconds * uniform(1 - AGE_SPREAD, 1 + AGE_SPREAD)
        limits = replace(self._limits, connection_seconds=age)
        crowded = len(self._connections) >= self._shared.connections_max
        connection = Connection(limits, self._shared, self._open, self._on_end, crowded=crowded)
        self._connections.add(connection)
        return connection

    def _on_end(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._draining and not self._connections:
            self._empty.set()

    def _open(self, stream: Stream) -> None:
        """Give a call to its handler, or refuse it."""
        head, path = stream.head, stream.head.path
        if path in self._methods:
            stream.handler = UnaryCall(stream, self._methods[path])
        elif path in self._handlers:
            stream.handler = self._handlers[path](stream)
        else:
            stream.fail(501, f"{shown(path)}: unknown method; docs/protocol.md lists those that are here")
            return
        if not head.grpc:
            stream.refuse(Unsupported("content-type: expected application/grpc"))
        elif path not in OPEN_PATHS and not path.startswith(HEALTH):
            refusal = self._shared.admission.refusal(head.authority, head.key)
            if refusal is not None:
                stream.refuse(refusal)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self._health.tell()
        now = self._loop.time()
        for connection in list(self._connections):
            connection.tick(now)
