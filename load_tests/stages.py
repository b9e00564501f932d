"""Where the CPU of a prediction goes: each process of a gateway under load, split by stage.

    python load_tests/stages.py                                      the MLP as JSON, 64 at once, on one core
    python load_tests/stages.py --model cnn --body binary -o json

py-spy samples the threads of each process that run (pip install 'snowgate[bench]'; it needs the right to trace other
processes: root, or kernel.yama.ptrace_scope=0). A sample counts for the stage of its innermost frame that has one; the
shares are of the CPU time that the kernel has counted for the process meanwhile, so they add up to what was spent. What
is sampled while it waits (for the disk, for the interpreter's lock) is left out. Sampling itself costs some percent.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from linecache import getline
from pathlib import Path
from typing import Any

# In place of this script's folder: it is the checkout's own code that is measured, and it names its modules in full.
sys.path[0] = str(Path(__file__).parents[1])

from load_tests.comparison import keeper
from load_tests.comparison.course import allowed_cpus, say, what_is_missing
from load_tests.comparison.machine import describe
from load_tests.comparison.models import write_models
from load_tests.comparison.points import Load
from load_tests.comparison.processes import process_seconds
from load_tests.comparison.server import Server
from load_tests.peers.snowgate import Snowgate

PROCESSES = {"gateway.worker": "worker", "bundles/runner": "runner", "monitors.watch": "monitor", "serve": "control"}
"""A word of each process's command line, and what it is called here."""
WAITING = re.compile(r"\b(wait|select|sleep|fdatasync)\(|waiter\.acquire\(")
"""What stands in the line of a frame that waits."""
STAGES = (
    ("http", r"\(gateway/(lane|head)\.py|uvicorn|httptools"),
    ("encode", r"^(encode|_chosen|json_data) \(gateway/protocol\.py"),
    ("decode", r"\(gateway/protocol\.py"),
    ("route and check", r"\(gateway/(table|routing|schema)\.py"),
    ("queue", r"\(gateway/(batching|replica|steps)\.py"),
    ("record and log", r"\(monitors/log/|\(gateway/ledger\.py|^_record \("),
    ("metrics and traces", r"\(gateway/(metrics|statistics|tracing|totals|spans|call_lines)\.py"),
    ("predict", r"\(gateway/predict\.py"),
    ("frame", r"\(bundles/runner/(frames|connections|server)\.py"),
    ("signals", r"\(bundles/runner/signals\.py"),
    ("model", r"\(bundles/runner/(loaders|batches|engines)|torch/"),
    ("detectors", r"\(monitors/"),
    ("event loop and sockets", r"asyncio/|uvloop/"),
)


def stage_of(stack: str) -> str | None:
    """Return the stage of a sampled stack, `outermost;…;innermost`; None for one that waits.

    >>> stage_of("main (gateway/worker.py:300);reply (gateway/lane.py:120)")
    'http'
    """
    frames = stack.split(";")[::-1]
    if WAITING.search(source_line(frames[0])):
        return None
    for frame in frames:
        for stage, pattern in STAGES:
            if re.search(pattern, frame):
                return stage
    return "other"


def source_line(frame: str) -> str:
    """Return the line of source that a frame, `name (file.py:line)`, stands at, as far as it can be found."""
    place = re.search(r"\(([^()]+):(\d+)\)$", frame)
    if place is None:
        return ""
    file = place[1] if (Path(sys.path[0]) / place[1]).exists() else f"{threading.__file__}/../{place[1]}"
    return getline(str((Path(sys.path[0]) / file).resolve()), int(place[2]))


def sample(pid: int, seconds: int, folder: Path) -> Counter[str]:
    """Sample one process; return how many samples fell to each stage."""
    target = folder / f"{pid}.stacks"
    command = ["py-spy", "record", "--pid", str(pid), "--duration", str(seconds), "--rate", "250", "--nonblocking"]
    subprocess.run([*command, "--format", "raw", "--output", str(target)], check=True, capture_output=True)
    found: Counter[str] = Counter()
    for line in target.read_text().splitlines():
        stack, _space, count = line.rpartition(" ")
        stage = stage_of(stack)
        if stage is not None:
            found[stage] += int(count)
    return found


def processes(root: int) -> dict[int, str]:
    """Return the processes of a gateway, by what they are."""
    found = {}
    for pid in keeper.descendants(root):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        name = next((name for word, name in PROCESSES.items() if word in words), None)
        if name is not None:
            found[pid] = name
    return found


def measure(server: Server, load: Load, model: str) -> dict[str, Any]:
    """Load a running gateway and sample all of its processes meanwhile."""
    load.drive(server, server.models[model])
    pids = processes(server.pid)
    before = {pid: process_seconds(pid) for pid in pids}
    reports: list[Any] = []
    driving = threading.Thread(target=lambda: reports.append(load.drive(server, server.models[model])))
    samples: dict[int, Counter[str]] = {}
    sampling = [
        threading.Thread(
            target=lambda pid=pid: samples.update({pid: sample(pid, load.seconds - 2, server.place.folder)})
        )
        for pid in pids
    ]
    for thread in (driving, *sampling):
        thread.start()
    for thread in (driving, *sampling):
        thread.join()
    (report,) = reports
    rows = []
    for pid, name in pids.items():
        spent = (process_seconds(pid) - before[pid]) / report.requests * 1e6
        counted = samples.get(pid, Counter())
        total = sum(counted.values()) or 1
        for stage, count in counted.most_common():
            rows.append({"process": name, "stage": stage, "cpu_us_per_request": round(spent * count / total, 2)})
    return {"requests_per_second": round(report.requests / report.seconds, 1), "stages": rows}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["mlp", "cnn"], default="mlp")
    parser.add_argument("--body", choices=["json", "binary"], default="json")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N")
    parser.add_argument("--seconds", type=int, default=10, metavar="N")
    parser.add_argument("-o", dest="form", choices=["markdown", "json"], default="markdown")
    chosen = parser.parse_args()
    missing = what_is_missing()
    if missing is None and shutil.which("py-spy") is None:
        missing = "py-spy samples the processes, and is not installed: pip install 'snowgate[bench]'"
    if missing is not None:
        parser.exit(2, f"{missing}\n")
    with tempfile.TemporaryDirectory(prefix="snowgate-stages-") as folder:
        work = Path(folder)
        models = {chosen.model: write_models(work / "models")[chosen.model]}
        load = Load(chosen.body, chosen.concurrency, chosen.seconds, allowed_cpus()[1:2])
        say(f"packing and serving the {chosen.model}")
        with Server(Snowgate(), Path(sys.executable), models, work=work, cores=1, cpus=allowed_cpus()[:1]) as server:
            say(f"{chosen.seconds} s to warm up, {chosen.seconds} s sampled")
            found = measure(server, load, chosen.model)
            machine = describe(work)
    if chosen.form == "json":
        print(json.dumps(found | {"machine": machine}, indent=2))
        return
    total = sum(row["cpu_us_per_request"] for row in found["stages"])
    print(f"{found['requests_per_second']:,.0f} requests/s, {total:.0f} µs of CPU each\n")
    print("| process | stage | µs a request | |\n| --- | --- | ---: | ---: |")
    for row in found["stages"]:
        share = row["cpu_us_per_request"] / total
        print(f"| {row['process']} | {row['stage']} | {row['cpu_us_per_request']:.1f} | {share:.0%} |")


if __name__ == "__main__":
    main()
