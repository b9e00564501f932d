"""Refusals of which nothing is known are counted, and a flood of them fills no disk."""

from collections.abc import Callable

from bundles.home import Home
from bundles.packing import Packed
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate, wait_until

CALLS = 200


def test_a_flood_is_counted(home: Home, packed: Packed, start: Callable[..., Gateway]) -> None:
    """Invented models and unknown keys: each call is answered, all are counted, records are few and without payload."""
    snowgate(home.path, "deploy", "signs@1")
    keys = home.path.parent / "keys"
    keys.write_text("flake-7f3a\n")
    gateway = start(home.path, "--api-keys-file", str(keys), "--insecure")
    assert gateway.call(X_API_Key="flake-7f3a")[0] == 200
    answers = [gateway.call(f"invented-{number}", X_API_Key="flake-7f3a") for number in range(CALLS)]
    answers += [gateway.call(X_API_Key=f"guess-{number}") for number in range(CALLS)]
    assert [status for status, _body, _headers in answers] == [404] * CALLS + [401] * CALLS
    log = LogReader(home.log)
    report = wait_until(lambda: _refused(log) == 2 * CALLS and log.verify(), what="the last second's counts")
    assert (report.answered, report.bad) == (1, 0)
    assert report.records == report.answered + report.refused
    assert report.refused < CALLS
    counted = [one for one in log.records(with_payload=True) if one.model == "_unknown"]
    assert len(counted) == report.refused
    assert all((one.payload, one.payload_state) == (None, "none") for one in counted)
    kinds = {(one.error_type, one.status) for one in counted}
    assert kinds == {("not_found", 404), ("unauthorized", 401)}
    assert all(b"invented" not in path.read_bytes() for path in home.log.rglob("*.seg"))
    # The id in such an answer is that of the record in which it is counted.
    found = log.find(answers[-1][2]["Snowgate-Prediction-Id"])
    assert found is not None
    assert (found.error_type, found.calls > 0) == ("unauthorized", True)
    shown = gateway.snowgate("prediction", "show", found.id)
    assert (shown["calls"], shown["payload_state"]) == (found.calls, "none")


def test_a_known_model_has_a_record_of_every_call(home: Home, packed: Packed, start: Callable[..., Gateway]) -> None:
    """A call refused for its body, or its version, is a record of its own; what was counted is written at the end."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    for path in ("/v2/models/signs/infer", "/v2/models/signs/versions/9/infer"):
        _status, _body, headers = gateway.post(path, b"{")
        record = LogReader(home.log).find(headers["Snowgate-Prediction-Id"])
        assert record is not None
        assert (record.model, record.calls, record.endpoint) == ("signs", 1, "POST /v2/models/{model}/infer")
    assert gateway.call("nobody")[0] == 404
    assert gateway.stop() == 0
    assert _refused(LogReader(home.log)) == 3


def _refused(log: LogReader) -> int:
    report = log.verify()
    return report.refused + report.counted
