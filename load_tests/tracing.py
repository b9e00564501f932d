"""What does tracing cost a call, and above all one that is not sampled?

Sends calls through the real `Predictor` (decode, route, check, encode, record; the runner's answer and the sync are
there at once, so that what is left is CPU of this process), in interleaved rounds: without an endpoint, with one and
not sampled, sampled, each with and without a `traceparent` of the client's. The spans go to a collector in a process of
its own. Prints the medians of CPU nanoseconds a call: `loop` is the event loop's thread, on which others wait, `all`
has the exporting thread as well.

    python load_tests/tracing.py [-o json]
"""

import argparse
import asyncio
import json
import multiprocessing
import platform
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter_ns, process_time_ns, thread_time_ns
from typing import Any, cast

import orjson
from prometheus_client import CollectorRegistry

from bundles.schema import TensorSpec
from gateway.batching import Computed, RunnerQueue
from gateway.call import Answer, Arrived
from gateway.call_lines import CallLines
from gateway.ledger import Ledger
from gateway.metrics import WorkerMetrics
from gateway.predict import Predictor
from gateway.protocol import OpenInference
from gateway.routing import Route
from gateway.schema import Schema
from gateway.spans import Spans
from gateway.steps import Step, start
from gateway.table import Model, Served, Table
from gateway.tracing import Tracing
from monitors.log.record import Tensor

ROUNDS, CALLS = 30, 500
"""15,000 calls of each kind; a sampled round of 3,500 spans fits into the queue."""
DECISIONS = 100_000
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
BODY = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 30], "data": [0.5] * 30}]})
WIRE = OpenInference()
KINDS = {
    "no endpoint": (False, 0.0, None),
    "not sampled": (True, 0.0, None),
    "sampled": (True, 1.0, None),
    "no endpoint, client's traceparent": (False, 0.0, f"{PARENT}1"),
    "not sampled, client's traceparent": (True, 0.0, f"{PARENT}0"),
    "sampled, client's traceparent": (True, 0.0, f"{PARENT}1"),
}


class Answered:
    """In the place of a runner's queue and of the log: both answer at once."""

    def submit(self, inputs: list[Tensor], rows: int, deadline_ns: int) -> Step:
        """Return a step that has its answer."""
        step = Step()
        output = Tensor("y", "FP32", [1, 2], bytes(8))
        step.complete(Computed([output], {"class": [1]}, 1_000, 50_000, 1, perf_counter_ns(), 1, [], []))
        return step

    def append(self, _record: Any, *, lone: bool) -> Step:
        """Return a step that is durable."""
        step = Step()
        step.complete()
        return step


def collect(ready: Connection) -> None:
    """Be a collector that takes whatever comes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_port)
    server.serve_forever()


def predictor(tracing: Tracing, metrics: WorkerMetrics) -> Predictor:
    """Return the real thing, serving one version."""
    answered = Answered()
    made = Predictor(
        cast("Ledger", answered), metrics, tracing, CallLines(access=False), timeout_seconds=30, unit_key=bytes(32)
    )
    schema = Schema((TensorSpec("x", "FP32", [-1, 30]),), (TensorSpec("y", "FP32", [-1, 2]),))
    served = Served(
        "mlp",
        "1",
        "sha256:" + "0" * 64,
        "python",
        "eager",
        schema,
        cast("RunnerQueue", answered),
        serves_unlogged=False,
    )
    variant = {"variant": "stable", "version": "1", "digest": served.digest, "weight": 10_000}
    route = Route.parse({"model": "mlp", "rollout": "mlp-1", "variants": [variant]}, 1)
    made.table = Table(1, {"mlp": Model("mlp", route, {"1": served})})
    return made


def calls(made: Predictor, traceparent: str | None) -> tuple[float, int]:
    """Make the calls of one round; return the loop's CPU time a call, and the process's at the beginning."""

    def reply(answer: Answer) -> None:
        assert answer.status == 200, answer.body

    whole, began = process_time_ns(), thread_time_ns()
    for _ in range(CALLS):
        start(made.predict(Arrived("mlp", None, WIRE, BODY, traceparent=traceparent), reply))
    return (thread_time_ns() - began) / CALLS, whole


async def measure(endpoint: str) -> list[dict[str, Any]]:
    """Run all kinds in turn, so that whatever the machine does meets all of them."""
    metrics = WorkerMetrics(CollectorRegistry())
    spans = Spans(endpoint, worker="w0", environment="test", version="0", metrics=metrics)
    made = {
        name: predictor(Tracing(spans if on else None, metrics, sample_ratio=ratio, traces_per_second_max=1e9), metrics)
        for name, (on, ratio, _traceparent) in KINDS.items()
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    for number in range(ROUNDS):
        turned = list(KINDS)[number % len(KINDS) :] + list(KINDS)[: number % len(KINDS)]
        for name in turned:
            traceparent = KINDS[name][2]
            loop, whole = calls(made[name], traceparent)
            while spans.waiting:  # noqa: ASYNC110 - another thread is waited for
                await asyncio.sleep(0.005)
            found[name].append((loop, (process_time_ns() - whole) / CALLS))
    spans.close(5)
    print(f"{metrics.spans_exported} spans exported, dropped: {metrics.spans_dropped}", file=sys.stderr)
    rows = []
    for name, rounds in found.items():
        loop, whole = (median(values) for values in zip(*rounds, strict=True))
        rows.append({"call": name, "loop_ns": round(loop), "all_ns": round(whole)})
    return rows


def decision_ns(traceparent: str | None) -> float:
    """Return what deciding about a call costs by itself, which the rounds are too coarse to show."""
    tracing = Tracing(None, WorkerMetrics(CollectorRegistry()), sample_ratio=0.0, traces_per_second_max=1.0)
    arrived = Arrived("mlp", None, WIRE, BODY, traceparent=traceparent)

    def spent(function: Callable[[], Any]) -> int:
        began = thread_time_ns()
        for _ in range(DECISIONS):
            function()
        return thread_time_ns() - began

    deciding, nothing = (
        min(spent(function) for _ in range(5)) for function in (lambda: tracing.begin(arrived), lambda: None)
    )
    return (deciding - nothing) / DECISIONS


def main() -> None:
    """Start the collector, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    here, there = multiprocessing.Pipe()
    collector = multiprocessing.get_context("spawn").Process(target=collect, args=(there,), daemon=True)
    collector.start()
    rows = asyncio.run(measure(f"http://127.0.0.1:{here.recv()}"))
    collector.terminate()
    if arguments.output == "json":
        print(json.dumps(rows, indent=2))
        return
    print(f"Python {platform.python_version()}, {platform.machine()}; CPU ns a call, medians of {ROUNDS} rounds\n")
    print("| a call | loop | all | loop, beyond no endpoint |\n| --- | ---: | ---: | ---: |")
    for place, row in enumerate(rows):  # Three of a kind follow each other; the first has no endpoint.
        more = row["loop_ns"] - rows[place - place % 3]["loop_ns"]
        print(f"| {row['call']} | {row['loop_ns']:,} | {row['all_ns']:,} | {more:+,} |")
    plain, continued = decision_ns(None), decision_ns(f"{PARENT}0")
    print(f"\nThe decision alone, not sampled: {plain:.0f} ns; with a client's traceparent {continued:,.0f} ns")


if __name__ == "__main__":
    main()
