"""Lines about calls: one for each that failed by our fault, and for all of them when somebody asks for an access log.

A model that raises on every call must not fill the disk in the night in which nobody looks. So failures of one kind
(model, version, status, what went wrong) get ten lines in ten seconds; how many more there were is one line at the
end. At 500 bytes a line that is 43 MB a day for each kind, at worst. The prediction log has every one of them.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from gateway.errors import InferenceError
from gateway.keeping import words
from monitors.log.record import Record

log = logging.getLogger("snowgate.calls")

LINES_MAX = 10
WINDOW_SECONDS = 10.0

Kind = tuple[str, str | None, int, str]


@dataclass(slots=True)
class _Window:
    """Failures of one kind since its window began."""

    lines: int = 0
    more: int = 0


class CallLines:
    """Writes the lines of one worker, on the event loop's thread."""

    def __init__(self, *, access: bool) -> None:
        self.access = access
        self._windows: dict[Kind, _Window] = {}

    def write(self, record: Record, status: int, failure: InferenceError | None) -> None:
        """Write a line about a call that has its answer: when it failed, or when every call gets one."""
        fields = {
            "prediction_id": record.id,
            "trace_id": record.trace_id,
            "span_id": record.span_id,
            "model": record.model,
            "version": record.version,
            "variant": record.variant,
            "status": status,
            "error_type": None if failure is None else failure.error_type,
            "milliseconds": round(record.timings["total"], 3),
        }
        if failure is None or status < 500:
            log.info("answered" if failure is None else words(record, failure), extra={"fields": fields})
        elif self._has_room(record, status, failure):
            cause = None if "error" in record.redactions else failure.__cause__
            log.error(words(record, failure), extra={"fields": fields}, exc_info=cause)

    def _has_room(self, record: Record, status: int, failure: InferenceError) -> bool:
        # What a client calls a model that is not served is no kind of its own: there is no end to such names.
        kind = (record.model if record.version else "_unknown", record.version, status, failure.error_type)
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window()
            asyncio.get_running_loop().call_later(WINDOW_SECONDS, self._end, kind)
        if window.lines < LINES_MAX:
            window.lines += 1
            return True
        window.more += 1
        return False

    def _end(self, kind: Kind) -> None:
        more = self._windows.pop(kind).more
        if more:
            model, version, status, error_type = kind
            fields: dict[str, Any] = {"model": model, "version": version, "status": status, "error_type": error_type}
            message = "%d more calls failed like this within %.0f s; the prediction log has each"
            log.error(message, more, WINDOW_SECONDS, extra={"fields": fields})
