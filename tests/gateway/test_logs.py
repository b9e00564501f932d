"""The lines on standard error, as people and machines read them: of real processes, and of single records."""

import json
import logging
import logging.config
import os
import signal
from collections.abc import Callable
from datetime import datetime

import pytest

from bundles.home import Home
from bundles.packing import Packed
from gateway.logs import logging_configuration
from gateway.settings import LoggingSettings
from tests.conftest import Gateway, snowgate, wait_until
from tests.gateway.test_lane import INFER, tensor

Start = Callable[..., Gateway]
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
JSON = {"SNOWGATE_LOGGING__FORMAT": "json"}


def formatted(form: str, record: logging.LogRecord) -> str:
    """Format a record by the formatter that the configuration names."""
    document = logging_configuration(LoggingSettings.model_validate({"format": form}), "worker w0")
    configurator = logging.config.DictConfigurator(document)
    formatter = configurator.configure_formatter(document["formatters"]["lines"])
    assert isinstance(formatter, logging.Formatter)
    return formatter.format(record)


def record(message: str, *arguments: object, error: Exception | None = None, **fields: object) -> logging.LogRecord:
    """A record about a call."""
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("snowgate.calls", logging.ERROR, "x.py", 1, message, arguments, exc_info)
    made.fields = fields
    return made


def test_a_json_line_is_one_object_with_all_fields() -> None:
    """Time in UTC, level, process, logger, message, and the ids of the call; what is not known is left out."""
    line = formatted("json", record("lost %d\nrows", 3, prediction_id="p-1", trace_id=None, status=500))
    assert "\n" not in line
    read = json.loads(line)
    assert list(read)[:6] == ["time", "level", "process", "pid", "logger", "message"]
    assert (read["level"], read["process"], read["pid"]) == ("error", "worker w0", os.getpid())
    assert read["message"] == "lost 3\nrows"
    assert (read["prediction_id"], read["status"]) == ("p-1", 500)
    assert "trace_id" not in read
    assert read["time"].endswith("Z")
    assert datetime.fromisoformat(read["time"]).timestamp() == pytest.approx(
        datetime.now().astimezone().timestamp(), abs=60
    )


def test_a_line_holds_whatever_it_is_given() -> None:
    """Bytes, half of a surrogate pair, a module and an exception do not stop a line from being written."""
    odd = record("%s", "\ud800", error=ValueError("why"), raw=b"\xff", path=os)
    read = json.loads(formatted("json", odd))
    assert "ValueError: why" in read["traceback"]
    assert formatted("text", odd)


def test_a_text_line_is_one_line() -> None:
    """A client's line break does not make a second line that looks like ours; a traceback stands below."""
    text = formatted("text", record("'a\r\nINFO control: all is well'", prediction_id="p-1"))
    assert text.count("\n") == 0
    assert " ERROR worker w0: 'a\\r\\nINFO control: all is well' prediction_id=p-1" in text
    assert formatted("text", record("x", error=ValueError("why"))).endswith("ValueError: why")


def test_all_processes_speak_json_and_a_failed_call_has_its_ids(home: Home, packed: Packed, start: Start) -> None:
    """Control, worker and monitor write one object a line; a model that raises gets a line with the call's ids."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path, variables=JSON | {"SNOWGATE_LOGGING__LEVEL": "debug"})
    status, _answer, headers = gateway.post(INFER, tensor(data=[2000, 0, 0]), traceparent=TRACEPARENT)
    assert status == 500
    assert gateway.post(INFER, tensor(shape=[1, 4]))[0] == 400
    assert gateway.call()[0] == 200
    (monitor,) = gateway.children("monitors.watch")
    os.kill(monitor, signal.SIGTERM)  # It ends, and control says so.
    wait_until(lambda: "monitor (pid" in gateway.log.read_text(), what="the line about the monitor")
    assert gateway.stop() == 0
    # What a runner says is its model's: prints, tracebacks.
    lines = [line for line in gateway.log.read_text().splitlines() if line.startswith("{")]
    read = [json.loads(line) for line in lines]
    assert {"control", "worker w0"} <= {one["process"] for one in read}
    failed = [one for one in read if "prediction_id" in one]
    assert len(failed) == 1, "a client's mistake and a good call have no line"
    (line,) = failed
    assert line["prediction_id"] == headers["Snowgate-Prediction-Id"]
    assert TRACEPARENT.split("-")[1] == line["trace_id"]
    assert line["span_id"] == headers["traceparent"].split("-")[2]
    assert (line["level"], line["process"], line["status"]) == ("error", "worker w0", 500)
    assert (line["model"], line["version"], line["error_type"]) == ("signs", "1", "model_failed")
    assert "larger than 1000" in line["message"]


def test_a_flood_of_failures_is_ten_lines_and_a_sum(home: Home, packed: Packed, start: Start) -> None:
    """Of 60 calls on which the model raises ten have a line; one at the end of the window says how many more."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path, variables=JSON)
    for _ in range(60):
        assert gateway.post(INFER, tensor(data=[2000, 0, 0]))[0] == 500

    def written() -> list[dict[str, object]]:
        lines = [line for line in gateway.log.read_text().splitlines() if line.startswith("{")]
        return [one for one in map(json.loads, lines) if one["logger"] == "snowgate.calls"]

    def windows() -> tuple[int, list[int]]:
        sums = [str(one["message"]) for one in written() if "more calls failed like this" in str(one["message"])]
        return sum("prediction_id" in one for one in written()), [int(text.split()[0]) for text in sums]

    wait_until(lambda: windows()[0] + sum(windows()[1]) == 60, what="the sum")
    lines, sums = windows()
    assert lines <= 10 * (len(sums) + 1)  # A slow machine may need a second window for 60 calls.
    assert max(sums) > 10


def test_an_access_log_for_who_asks(home: Home, packed: Packed, start: Start) -> None:
    """With `access` every call has its line, in text with its fields behind it."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path, variables={"SNOWGATE_LOGGING__ACCESS": "true"})
    good = gateway.call()[2]["Snowgate-Prediction-Id"]
    bad = gateway.post(INFER, tensor(shape=[1, 4]))[2]["Snowgate-Prediction-Id"]
    wait_until(lambda: bad in gateway.log.read_text(), what="the line")
    lines = {name: line for line in gateway.log.read_text().splitlines() for name in (good, bad) if name in line}
    assert " INFO worker w0: answered " in lines[good]
    assert " model=signs version=1 variant=stable status=200 " in lines[good]
    assert "status=400 error_type=bad_call" in lines[bad]
