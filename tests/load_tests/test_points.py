import json
from pathlib import Path

import pytest

from load_tests.comparison.course import Plan, ratios
from load_tests.comparison.points import Point, Sample, rows
from load_tests.comparison.server import free_ports
from load_tests.comparison.table import document, table
from load_tests.comparison.wrk import LoadError, parse
from load_tests.peers import PEERS

GOOD = {"requests": 1000, "seconds": 2.0, "p50_ms": 1.0, "p99_ms": 4.0, "bad_status": 0, "broken": 0, "timeouts": 0}


def sample(server: str, rate: float, *, other: float = 0.0, error: str | None = None, sync: float = 1.0) -> Sample:
    """Return a sample of one point, as a measurement makes it."""
    numbers = {"requests_per_second": rate, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us_per_request": 1e6 / max(rate, 1.0)}
    point = Point(server, "mlp", "json", 1, 64)
    facts = {"log": "commit", "monitor": True, "durable_sync_ms": {"p50": sync, "p99": 2 * sync}}
    numbers |= {"other_cpus": other, "settling_cpu_us_per_request": 0.0}
    return Sample(point, {} if error else numbers, facts, error)


def test_a_report_of_the_generator_is_read() -> None:
    """The last line of JSON counts, whatever wrk said before; without one, what it said is in the error."""
    report = parse(f"Running 2s test @ http://x\n{{not this}}\n{json.dumps(GOOD)}\n")
    assert (report.requests, report.p99_ms, report.complaint) == (1000, 4.0, None)
    with pytest.raises(LoadError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bad_status": 3}, "3 answers were not 2xx (of 1000)"),
        ({"broken": 1, "timeouts": 2}, "1 sockets broke; 2 timed out (of 1000)"),
        ({"requests": 0}, "nothing was answered (of 0)"),
    ],
)
def test_a_report_with_errors_is_no_measurement(change: dict[str, int], complaint: str) -> None:
    """Each kind of error that wrk counts makes the point an error."""
    assert parse(json.dumps(GOOD | change)).complaint == complaint


def test_rows_hold_medians_over_rounds() -> None:
    """Numbers and what was measured beside them are medians; a busy machine is marked by its median too."""
    found = rows([sample("a", 100.0, sync=1.0), sample("a", 300.0, other=0.5, sync=9.0), sample("a", 200.0, sync=2.0)])
    assert len(found) == 1
    row = found[0]
    assert (row["server"], row["model"], row["body"], row["cores"], row["concurrency"]) == ("a", "mlp", "json", 1, 64)
    assert (row["requests_per_second"], row["cpu_us_per_request"], row["rounds"]) == (200.0, 5000.0, 3)
    assert (row["durable_sync_ms"], row["log"], row["monitor"]) == ({"p50": 2.0, "p99": 4.0}, "commit", True)
    assert (row["busy"], row["error"]) == (False, None)


def test_one_wrong_round_is_an_error_and_never_a_number() -> None:
    """A point with an error in any round has no numbers, and says why."""
    row = rows([sample("a", 100.0), sample("a", 0.0, error="2 answers were not 2xx")])[0]
    numbers = [row[name] for name in ("requests_per_second", "p50_ms", "p99_ms", "cpu_us_per_request", "busy")]
    assert numbers == [None] * 5
    assert row["error"] == "2 answers were not 2xx"
    assert "error: 2 answers were not 2xx" in table([row])


def test_a_duel_is_told_in_ratios_of_neighbouring_turns() -> None:
    """The ratio is the median over rotations of the ratio in one, so that a slow moment of the machine cancels out."""
    turns = [("first", 100.0), ("second", 200.0), ("first", 50.0), ("second", 100.0), ("first", 10.0), ("second", 90.0)]
    found = ratios([sample(*turn) for turn in turns], "first")
    assert {point.server: ratio for point, ratio in found.items()} == {"first": 1.0, "second": 2.0}
    assert ratios([sample("first", 1.0), sample("second", 0.0, error="no")], "first") == {
        Point("first", "mlp", "json", 1, 64): 1.0
    }


def test_the_document_names_what_was_compared() -> None:
    """Machine and configuration stand above, a table for each case, busy rows are marked, the sync stands beside."""
    text = document(rows([sample("a", 1234.0, other=0.5), sample("b", 99.0)]), ["a machine", "**a**: a configuration"])
    assert "- a machine\n- **a**: a configuration" in text
    assert "## MLP, json, one core" in text
    assert "| a \\* | 64 | 1,234 | 1 | 2 | 810 |" in text
    assert "| b | 64 | 99 | 1 | 2 | 10,101 |" in text
    assert "fdatasync of 4 KB" in text
    assert "other work took more than a tenth of a CPU" in text


def test_a_peer_is_asked_only_for_bodies_that_it_speaks() -> None:
    """Binary points exist for servers with the binary tensor extension only; ours has all."""
    plan = Plan(["mlp", "cnn"], ["json", "binary"], [1], [1, 64], rounds=1, seconds=1, warm_up=1)
    counts = {name: len(plan.points(peer, 1)) for name, peer in PEERS.items()}
    assert counts["snowgate"] == counts["triton"] == 8
    assert counts["fastapi"] == counts["bentoml"] == 4


def test_every_peer_is_described() -> None:
    """Each has a configuration in words, pinned requirements where the notes name a version, and its files."""
    for name, peer in PEERS.items():
        assert peer.configuration(1) != peer.configuration(2), name
        assert peer.versions, name
        folder = Path(__file__).parents[2] / "load_tests" / "peers" / name
        assert (folder / "__init__.py").is_file(), name


def test_ports_come_in_a_row() -> None:
    """Servers that count on from their first port find the next ones free."""
    ports = free_ports(5)
    assert ports == list(range(ports[0], ports[0] + 5))
