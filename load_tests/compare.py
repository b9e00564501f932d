"""Snowgate beside other servers: the same models, one load generator, right answers, in interleaved rounds.

    python load_tests/compare.py                                     everything, about an hour
    python load_tests/compare.py --quick --peers fastapi,triton      about two minutes, once they are installed
    python load_tests/compare.py --duel --peers triton,fastapi       all up at once, short turns, ratios to the first

Peers are installed into environments of their own in a cache folder. docs/performance.md says what is compared, what
the columns mean, and where the traps are. The result goes to standard output, progress to standard error.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# In place of this script's folder: it is the checkout's own code that is measured, and it names its modules in full.
sys.path[0] = str(Path(__file__).parents[1])

from load_tests.comparison.course import Course, Plan, failed, ratios, say, what_is_missing
from load_tests.comparison.environment import Environments, InstallError, versions
from load_tests.comparison.machine import checkout, describe
from load_tests.comparison.models import write_models
from load_tests.comparison.points import Point, rows
from load_tests.comparison.server import Peer
from load_tests.comparison.table import add_output, document, publish
from load_tests.peers import PEERS

CACHE = Path("~/.cache/snowgate-peers")
OURS = "snowgate"


def listed(convert: Callable[[str], Any], allowed: Sequence[Any] | None = None) -> Callable[[str], list[Any]]:
    """Return a parser of comma-separated values."""

    def parse(text: str) -> list[Any]:
        words = [part.strip() for part in text.split(",") if part.strip()]
        try:
            found = [convert(word) for word in words]
        except ValueError:
            found = []
        if not found or not all(allowed is None or one in allowed for one in found):
            expected = f"some of {', '.join(map(str, allowed))}" if allowed else "numbers"
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}, with commas between them")
        return found

    return parse


def positive(text: str) -> int:
    """Parse a whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above zero")
    return number


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [name for name in PEERS if name != OURS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--peers", type=listed(str, list(PEERS)), default=names, metavar="A,B", help=f"of {', '.join(names)}")
    add("--models", type=listed(str, ["mlp", "cnn"]), default=["mlp", "cnn"], metavar="A,B")
    add("--bodies", type=listed(str, ["json", "binary"]), default=["json", "binary"], metavar="A,B")
    add("--cores", type=listed(int, [1, 2]), metavar="N,N", help="1: pinned to one; 2: two, the generator on them too")
    add("--concurrency", type=listed(positive), metavar="N,N", help="connections, each with one call at a time")
    add("--rounds", type=positive, help="rounds, or rotations of a duel; medians over them are shown")
    add("--seconds", type=positive, help="length of a point")
    add("--quick", action="store_true", help="defaults for two minutes: one core, 1 and 64 at once, 2 rounds of 2 s")
    add("--duel", action="store_true", help="all servers up, turns of 2 s, 5 rotations, ratios to the first peer")
    add("--cache", type=Path, default=CACHE, help=f"where peers are installed  [default: {CACHE}]")
    add_output(parser)
    found = parser.parse_args()
    short = found.quick or found.duel
    defaults = {
        "cores": [1] if short else [1, 2],
        "concurrency": [1, 64] if found.quick else [1, 16, 64],
        "rounds": 5 if found.duel and not found.quick else 2 if found.quick else 3,
        "seconds": 2 if short else 4,
    }
    for name, value in defaults.items():
        if getattr(found, name) is None:
            setattr(found, name, value)
    return found


def main() -> int:
    """Install, measure, print. Exit code 1 when a point has an error instead of numbers."""
    chosen = arguments()
    missing = what_is_missing()
    if missing:
        say(missing)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # As Ctrl-C does: everything that runs is ended.
    peers = [PEERS[name] for name in dict.fromkeys([*chosen.peers, OURS])]
    plan = Plan(
        models=chosen.models,
        bodies=chosen.bodies,
        cores=chosen.cores,
        concurrency=chosen.concurrency,
        rounds=chosen.rounds,
        seconds=chosen.seconds,
        warm_up=1,
    )
    cache = chosen.cache.expanduser().absolute()
    installed, samples = [], []
    for peer in peers:
        try:
            installed.append((peer, install(peer, Environments(cache))))
        except InstallError as error:
            samples += [one for cores in plan.cores for one in failed(plan.points(peer, cores), str(error))]
    began = time.monotonic()
    # In the cache's folder and not in /tmp, which may be memory: what is durable must cost what it costs.
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as folder:
        work = Path(folder)
        models = {name: model for name, model in write_models(work / "models").items() if name in plan.models}
        course = Course(plan, installed, models, work)
        samples += course.duel() if chosen.duel else course.rounds()
        heading = describe_run(installed, plan, work)
    result = rows(samples)
    if chosen.duel:
        relative = ratios(samples, peers[0].name)
        for row in result:
            point = Point(*(row[name] for name in ("server", "model", "body", "cores", "concurrency")))
            row |= {"ratio": relative.get(point), "ratio_to": peers[0].name}
    publish({"json": json.dumps(result, indent=2) + "\n", "markdown": document(result, heading)}, chosen)
    say(f"{len(samples)} measurements in {time.monotonic() - began:.0f} s")
    return 1 if any(row["error"] for row in result) else 0


def install(peer: Peer, environments: Environments) -> Path:
    """Return the interpreter of a peer's environment; our own is the one that runs this script."""
    if peer.name == OURS:
        environments.cache.mkdir(parents=True, exist_ok=True)
        return Path(sys.executable)
    return environments.ensure(peer.name, peer.requirements, peer.interpreter)


def describe_run(installed: Sequence[tuple[Peer, Path]], plan: Plan, work: Path) -> list[str]:
    """Return what a reader must know: machine, load, and each server's versions and configuration."""
    where = describe(work)
    machine = "{cpu}, {cpus} CPUs, {memory_gib} GiB, Linux {kernel}, {file_system}".format(**where)
    command = shlex.join(["python", "load_tests/compare.py", *sys.argv[1:]])
    load = "wrk: one thread, keep-alive, closed loop, one body repeated"
    lines = [
        f"{machine}, {time.strftime('%Y-%m-%d')}, {checkout()}",
        f"`{command}`",
        f"medians over {plan.rounds} rounds of {plan.seconds} s; {load}",
        "one thread for arithmetic everywhere; one core: the whole server on one CPU, the generator on another",
    ]
    for peer, python in installed:
        found = ", ".join(f"{name} {number}" for name, number in versions(python, peer.versions).items() if number)
        said = "; ".join(peer.configuration(cores) for cores in plan.cores)
        lines.append(f"**{peer.name}** ({found}): {said}")
    return lines


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
