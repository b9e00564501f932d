"""The processes beside serving: what each of them is told, on the command line with which control starts it.

They read the log and write live state, and none of them is in the way of a call. Control starts them with the workers,
starts them again when they die, and ends them when the workers have ended.
"""

import json
import os
import sys
from typing import Any

from bundles.home import Home
from gateway.logs import logging_configuration
from gateway.settings import Settings

Beside = dict[str, list[str]]
"""Command lines by what their processes are called."""


def beside(home: Home, settings: Settings, console_url: str) -> Beside:
    """Return what runs beside serving, by the settings; `console_url` is for the links in pages."""
    found = {
        "monitor": _command("monitors.watch", "monitor", home, settings, _monitor(settings, console_url)),
        "sealer": _command("gateway.sealer", "sealer", home, settings, _sealer(settings, console_url)),
    }
    if settings.export.url is not None:
        found["exporter"] = _command("gateway.export.process", "exporter", home, settings, _exporter(settings))
    return found


def _command(module: str, name: str, home: Home, settings: Settings, told: dict[str, Any]) -> list[str]:
    place = ["--home", str(home.path), "--parent", str(os.getpid())]
    lines = ["--logging", json.dumps(logging_configuration(settings.logging, name))]
    return [sys.executable, "-m", module, *place, *lines, "--settings", json.dumps(told)]


def _monitor(settings: Settings, console_url: str) -> dict[str, Any]:
    return {
        **settings.monitor.model_dump(),
        "webhook_url": settings.page.webhook.url,
        "webhook_timeout_seconds": settings.page.webhook.timeout_seconds,
        "console_url": settings.page.console_url or console_url,
        "environment": settings.server.environment,
    }


def _exporter(settings: Settings) -> dict[str, Any]:
    chosen = settings.export.model_dump(mode="json")
    models = chosen.pop("models")
    return {"receiver": chosen, "models": models, "environment": settings.server.environment}


def _sealer(settings: Settings, console_url: str) -> dict[str, Any]:
    return {
        "keep_days": settings.log.keep_days,
        "max_bytes": settings.log.max_bytes,
        "console_url": settings.page.console_url or console_url,
        "environment": settings.server.environment,
    }
