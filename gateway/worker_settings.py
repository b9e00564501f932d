"""What control tells a worker at its start, in one object that goes through JSON."""

from dataclasses import dataclass
from typing import Any

from bundles.home import Home
from gateway.keys import key_digests, unit_key_file
from gateway.logs import logging_configuration
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """All that is fixed for a worker's life; what it serves comes in tables."""

    log_directory: str
    log: dict[str, Any]
    models_log: dict[str, dict[str, Any]]
    unit_header: str
    unit_key_file: str
    body_bytes_max: int
    body_seconds: float
    header_seconds: float
    connections_max: int
    waiting_bytes_max: int
    waiting_calls_max: int
    timeout_seconds: float
    drain_seconds: float
    environment: str
    tracing: dict[str, Any]
    logging: dict[str, Any]
    access_lines: bool
    grpc_connection_seconds: float
    keys: list[str] | None
    hosts: list[str] | None
    origins: list[str]
    repository_api: bool


def worker_settings(home: Home, settings: Settings, name: str) -> WorkerSettings:
    """Return what the worker of this name gets.

    What can wait, be lost or be traced is bounded for the gateway: more workers must not mean more of it, so each has
    an equal share.
    """
    server, tracing = settings.server, settings.tracing
    log = settings.log.model_dump() | {"loss_records": -(-settings.log.loss_records // server.workers)}
    return WorkerSettings(
        log_directory=str(home.log),
        log=log,
        models_log={name: settings.log_of(name).model_dump() for name in settings.models},
        unit_header=server.unit_header,
        unit_key_file=str(unit_key_file(home)),
        body_bytes_max=server.max_body_bytes,
        body_seconds=server.body_seconds,
        header_seconds=server.header_seconds,
        connections_max=server.max_connections,
        waiting_bytes_max=-(-server.max_waiting_bytes // server.workers),
        waiting_calls_max=-(-server.max_waiting_calls // server.workers),
        timeout_seconds=server.timeout_seconds,
        drain_seconds=server.drain_seconds,
        environment=server.environment,
        tracing=tracing.model_dump() | {"traces_per_second_max": tracing.traces_per_second_max / server.workers},
        logging=logging_configuration(settings.logging, f"worker {name}"),
        access_lines=settings.logging.access,
        grpc_connection_seconds=server.grpc_connection_seconds,
        keys=key_digests(settings),
        hosts=["127.0.0.1", "localhost", "[::1]"] if settings.loopback else None,
        origins=list(server.allowed_origins),
        repository_api=server.repository_api,
    )
