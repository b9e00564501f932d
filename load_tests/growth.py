"""How Snowgate grows: with idle bundles, rows a call, bytes a call, and arrivals near its capacity.

    python load_tests/growth.py [--quick] [--experiments bundles,rows,payload,arrivals] [-o json]

Everything of it runs on one core by default, the load generator on another; log durable, monitor on. What the columns
mean is in docs/performance.md. The result goes to standard output, progress to standard error.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

# In place of this script's folder: it is the checkout's own code that is measured, and it names its modules in full.
sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
from safetensors.numpy import load_file

from load_tests.comparison import answers, arrivals, dense
from load_tests.comparison.course import generator_cpus, say, server_cpus, what_is_missing
from load_tests.comparison.machine import checkout, describe, durable_sync_ms
from load_tests.comparison.models import ROWS, Model, write_models
from load_tests.comparison.points import BUSY_CPUS, Load, PointError
from load_tests.comparison.processes import pinned
from load_tests.comparison.server import Place, Server, ServerError
from load_tests.comparison.table import add_output, first_line, publish
from load_tests.comparison.wrk import LoadError
from load_tests.peers.snowgate import Recipe, Snowgate, deploy

CACHE = Path("~/.cache/snowgate-peers")
SHARES = (0.5, 0.8, 0.95)
ARRIVAL_CONNECTIONS = 256
COLUMNS = {
    "experiment": "experiment",
    "value": "value",
    "unit": "",
    "requests_per_second": "requests/s",
    "rows_per_second": "rows/s",
    "megabytes_per_second": "MB/s in",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "cpu_us_per_request": "CPU µs a request",
    "memory_mib": "memory MiB",
    "idle_cpus": "idle CPUs",
    "late_p99_ms": "late ms",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Growth:
    """What is common to all experiments."""

    work: Path
    models: Mapping[str, Model]
    seconds: int
    cores: int
    quick: bool

    def server(self, peer: Snowgate, models: Mapping[str, Model]) -> Server:
        """Return a gateway that is to be started with these models."""
        say(f"starting with {len(models)} bundle{'s' if len(models) > 1 else ''}")
        cpus = server_cpus(self.cores)
        return Server(peer, Path(sys.executable), dict(models), work=self.work, cores=self.cores, cpus=cpus)


class Grown(Snowgate):
    """Snowgate with other bundles than those of the comparison."""

    def __init__(self, template: Path) -> None:
        self._template = template

    def home(self, place: Place) -> Path:
        """Return the home that was made for the experiment."""
        return self._template


def bundles(growth: Growth) -> Iterator[Row]:
    """Load one of many bundles; the others are loaded, and idle."""
    home = growth.work / "bundles-home"
    weights: dict[str, Any] = load_file(growth.work / "models" / "mlp.safetensors")
    np.savez(growth.work / "mlp.npz", **weights)
    files = [Path(dense.__file__), growth.work / "mlp.npz"]
    models: dict[str, Model] = {}
    mlp = growth.models["mlp"]
    for count in (1, 10) if growth.quick else (1, 10, 100):
        while len(models) < count:
            name = f"mlp{len(models)}"
            say(f"  packing bundle {len(models) + 1} of {count}")
            deploy(Recipe(name, "python", "dense:Mlp", files, mlp.rows, [-1, 30], 2), home)
            models[name] = replace(mlp, name=name)
        with growth.server(Grown(home), models) as server:
            row = attempt("bundles", count, "loaded", partial(closed, growth, server, models["mlp0"], 1, 64))
            before = server.cpu_seconds
            time.sleep(growth.seconds)
            idle = (server.cpu_seconds - before) / growth.seconds
            yield row | {"memory_mib": round(server.memory_bytes / 1024**2), "idle_cpus": round(idle, 4)}


def rows(growth: Growth) -> Iterator[Row]:
    """Send several rows in a call."""
    mlp = growth.models["mlp"]
    with growth.server(Snowgate(), {"mlp": mlp}) as server:
        for count in (1, 4, 16, 64):
            yield attempt("rows", count, "rows a call", partial(closed, growth, server, mlp, count, 16))


def payload(growth: Growth) -> Iterator[Row]:
    """Send larger and larger rows to a model that does next to nothing."""
    home = growth.work / "payload-home"
    chance = np.random.default_rng(9)
    small = chance.normal(size=(ROWS, 25)).astype(np.float32)
    deploy(Recipe("ends", "python", "dense:Ends", [Path(dense.__file__)], small, [-1, -1], 2), home)
    sizes = [100, 10_000, 1_000_000] if growth.quick else [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000]

    def model(size: int) -> Model:
        row = chance.normal(size=(2, size // 4)).astype(np.float32)
        return Model("ends", row.shape[1:], 2, 0.0, row, row[:, [0, -1]])

    with growth.server(Grown(home), {"ends": model(100)}) as server:
        for size in sizes:
            sized = model(size)
            yield attempt("payload", size, "bytes", partial(closed, growth, server, sized, 1, 4))


def open_loop(growth: Growth) -> Iterator[Row]:
    """Find the capacity in a closed loop, then let calls arrive at shares of it."""
    mlp = growth.models["mlp"]
    with growth.server(Snowgate(), {"mlp": mlp}) as server:
        capacity = attempt("arrivals", 100, "% (closed loop)", partial(closed, growth, server, mlp, 1, 64))
        yield capacity
        if capacity["error"]:
            return
        for share in SHARES:
            rate = share * capacity["requests_per_second"]
            measure = partial(arriving, growth, server, mlp, rate)
            yield attempt("arrivals", round(share * 100), "% of that", measure)


EXPERIMENTS: dict[str, Callable[[Growth], Iterator[Row]]] = {
    "bundles": bundles,
    "rows": rows,
    "payload": payload,
    "arrivals": open_loop,
}


def closed(growth: Growth, server: Server, model: Model, count: int, concurrency: int) -> dict[str, float]:
    """Measure a closed loop of binary calls with so many rows."""
    if count > len(model.rows):
        more = [np.resize(values, (count, *values.shape[1:])) for values in (model.rows, model.expected)]
        model = replace(model, rows=more[0], expected=more[1])
    load = Load("binary", concurrency, growth.seconds, generator_cpus(growth.cores), count)
    replace(load, seconds=1).drive(server, model)
    numbers = load.run(server, model)
    rate = numbers["requests_per_second"]
    return numbers | {"rows_per_second": rate * count, "megabytes_per_second": rate * model.rows[:count].nbytes / 1e6}


def arriving(growth: Growth, server: Server, model: Model, rate: float) -> dict[str, float]:
    """Measure an open loop of binary calls with one row, at a rate."""
    content, headers = server.peer.request("binary", model.name, model.rows[:1])
    head = [f"POST /v2/models/{model.name}/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(content)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    path = server.place.folder / "arriving.request"
    path.write_bytes("\r\n".join([*head, "", ""]).encode() + content)
    port, connections = server.place.ports[0], ARRIVAL_CONNECTIONS
    words = [str(port), str(path), f"{rate:.3f}", str(growth.seconds), str(connections)]
    before = server.cpu_seconds
    done = subprocess.run(
        pinned([sys.executable, arrivals.__file__, *words], generator_cpus(growth.cores)),
        capture_output=True,
        text=True,
        check=False,
        timeout=growth.seconds + arrivals.DRAIN_SECONDS_MAX + 30,
    )
    if done.returncode:
        raise PointError(f"the arrivals ended with {done.returncode}: {done.stderr[-300:]}")
    found = json.loads(done.stdout)
    server.answered += found["requests"]
    spent = server.cpu_seconds - before
    owed = server.peer.settled(server.place, server.answered)
    wrong = owed or answers.complaint(server, model, "binary")
    if found["failed"] or wrong:
        raise PointError(wrong or f"{found['failed']} of {found['requests']} answers were not 2xx")
    quantiles = {name: found[name] for name in ("p50_ms", "p99_ms", "p999_ms", "late_p99_ms")}
    rate = found["requests"] / found["seconds"]
    return quantiles | {"requests_per_second": rate, "cpu_us_per_request": spent / found["requests"] * 1e6}


def attempt(experiment: str, value: int, unit: str, measure: Callable[[], dict[str, float]]) -> Row:
    """Measure, and return a row with the numbers or with what went wrong."""
    row: Row = {"server": "snowgate", "log": "commit", "monitor": True, "experiment": experiment, "value": value}
    row |= {"unit": unit, "error": None}
    try:
        numbers = measure()
    except (PointError, LoadError) as error:
        row["error"] = str(error)
    else:
        row |= {name: round(number, 3) for name, number in numbers.items()}
        row["busy"] = numbers.get("other_cpus", 0.0) > BUSY_CPUS
    rate = row["error"] or f"{row['requests_per_second']:,.0f}/s  p50 {row['p50_ms']:.2f}  p99 {row['p99_ms']:.2f} ms"
    say(f"  {experiment} {value:,} {unit}: {rate}")
    return row


def document(found: Sequence[Row], heading: Sequence[str]) -> str:
    """Return a Markdown document: the heading's lines as a list, then a table for each experiment."""
    parts = ["# How Snowgate grows", "\n".join(f"- {line}" for line in heading)]
    for experiment in dict.fromkeys(row["experiment"] for row in found):
        chosen = [row for row in found if row["experiment"] == experiment]
        shown = [name for name in COLUMNS if name != "experiment" and any(name in row for row in chosen)]
        lines = [f"| {' | '.join(COLUMNS[name] for name in shown)} |", f"|{'---:|' * len(shown)}"]
        for row in chosen:
            cells = [f"{row['value']:,}", row["unit"]]
            if row["error"]:
                cells.append(f"error: {first_line(row['error'])}")
            else:
                cells += [f"{row[name]:,.4g}" if name in row else "-" for name in shown[2:]]
            lines.append(f"| {' | '.join(cells + [''] * (len(shown) - len(cells)))} |")
        parts += [f"## {experiment.capitalize()}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--experiments", default=",".join(EXPERIMENTS), metavar="A,B", help=f"of {', '.join(EXPERIMENTS)}")
    add("--quick", action="store_true", help="10 bundles and 1 MB at most, points of 2 s")
    add("--seconds", type=int, help="length of a point  [default: 5]")
    add("--cores", type=int, choices=[1, 2], default=1, help="1: pinned to one; 2: two, the generator on them too")
    add("--cache", type=Path, default=CACHE, help=f"where the run has its folder  [default: {CACHE}]")
    add_output(parser)
    found = parser.parse_args()
    found.experiments = [name.strip() for name in found.experiments.split(",") if name.strip()]
    unknown = [name for name in found.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"--experiments: {', '.join(unknown)}; expected some of {', '.join(EXPERIMENTS)}")
    found.seconds = found.seconds or (2 if found.quick else 5)
    return found


def main() -> int:
    """Measure and print. Exit code 1 when a row has an error instead of numbers."""
    chosen = arguments()
    missing = what_is_missing()
    if missing:
        say(missing)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # As Ctrl-C does: everything that runs is ended.
    cache = chosen.cache.expanduser().absolute()
    cache.mkdir(parents=True, exist_ok=True)
    found: list[Row] = []
    # In the cache's folder and not in /tmp, which may be memory: what is durable must cost what it costs.
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as folder:
        work = Path(folder)
        growth = Growth(work, write_models(work / "models"), chosen.seconds, chosen.cores, chosen.quick)
        for name in chosen.experiments:
            say(name)
            try:
                found += EXPERIMENTS[name](growth)
            except ServerError as error:
                say(f"  ERROR: {error}")
                found.append({"server": "snowgate", "experiment": name, "value": 0, "unit": "", "error": str(error)})
        machine = "{cpu}, {cpus} CPUs, {memory_gib} GiB, Linux {kernel}, {file_system}".format(**describe(work))
        sync = durable_sync_ms(work)
    heading = [
        f"{machine}, {time.strftime('%Y-%m-%d')}, {checkout()}",
        f"`{shlex.join(['python', 'load_tests/growth.py', *sys.argv[1:]])}`",
        f"`snowgate serve --workers {chosen.cores}`, default settings: every answer durable in the log, monitor on",
        f"points of {chosen.seconds} s, binary bodies; fdatasync of 4 KB: p50 {sync['p50']} ms, p99 {sync['p99']} ms",
    ]
    publish({"json": json.dumps(found, indent=2) + "\n", "markdown": document(found, heading)}, chosen)
    return 1 if any(row["error"] for row in found) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
