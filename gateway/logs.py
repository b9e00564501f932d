"""The lines that the processes write on standard error: one form for all of them, for people or for machines.

Control makes a configuration for each process, in the form of `logging.config.dictConfig`, and hands it down at its
start; so the monitor writes the same lines without importing anything from here.

A line that is about a call carries `prediction_id`, and `trace_id` and `span_id` where there is a trace: give them as
`extra={"fields": {...}}`.
"""

import json
import logging
from typing import Any

from gateway.audit import rfc3339
from gateway.settings import LoggingSettings


def logging_configuration(settings: LoggingSettings, process: str) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes, for one process."""
    form = {"json": "gateway.logs.JsonLines", "text": "gateway.logs.TextLines"}[settings.format]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": form, "process": process}},
        "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"level": settings.level.upper(), "handlers": ["lines"]},
        "loggers": {
            # Each start and stop of a server is said in our own words; a failing export is, once, by gateway.spans.
            # What is no HTTP the client is told: a line for each warning would let strangers fill the disk.
            "uvicorn.error": {"level": "ERROR"},
            "opentelemetry": {"level": "CRITICAL"},
        },
    }


class TextLines(logging.Formatter):
    """`time LEVEL process: message`, and behind it the fields; a traceback follows on its own lines."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as text."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{rfc3339(record.created)} {record.levelname} {self._process}: {_one_line(record.getMessage())}{fields}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as JSON."""
        line = _fields(record) | {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        # The fields that every line has come first, where eyes look for them.
        ordered = dict(sorted(line.items(), key=lambda item: FIRST.get(item[0], len(FIRST))))
        return json.dumps(ordered, default=str)


FIRST = {name: place for place, name in enumerate(("time", "level", "process", "pid", "logger", "message"))}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}


def _one_line(message: str) -> str:
    """A client's words are part of some messages; they must not look like a line of ours."""
    return message.replace("\r", "\\r").replace("\n", "\\n")
