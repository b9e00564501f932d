"""The record through a real gateway: rules for what is kept, large tensors, and forgetting beside it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from bundles.home import Home
from bundles.packing import Packed
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate

Start = Callable[..., Gateway]
SECRET = "Lovelace-1815"
SETTINGS = """
[log]
inline_bytes_max = 4096

[models.signs.log]
redact_tensors = ["y"]
redact_parameters = ["session"]
units = "hashed"
"""


def call(gateway: Gateway, rows: int, unit: str) -> str:
    """Send rows with a session and a unit; return the prediction's id."""
    data = np.arange(rows * 3, dtype=np.float32).tolist()
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": [one / 1000 for one in data]}
    body = orjson.dumps({"inputs": [tensor], "parameters": {"session": SECRET, "threshold": 0.5}})
    status, _answer, headers = gateway.post("/v2/models/signs/infer", body, Snowgate_Unit=unit)
    assert status == 200
    return str(headers["Snowgate-Prediction-Id"])


def everything(home: Home) -> bytes:
    """All bytes of the log, but for the empty locks."""
    return b"".join(path.read_bytes() for path in home.log.rglob("*") if path.is_file())


def test_what_is_kept_and_what_is_forgotten(home: Home, packed: Packed, tmp_path: Path, start: Start) -> None:
    """What is redacted or hashed is nowhere on disk; large tensors are; forgetting works beside the gateway."""
    snowgate(home.path, "deploy", "signs@1")
    (tmp_path / "rules.toml").write_text(SETTINGS)
    gateway = start(home.path, "--config", str(tmp_path / "rules.toml"))
    small, large, other = (call(gateway, rows, f"{unit}-{SECRET}") for rows, unit in ((1, "a"), (900, "a"), (900, "b")))
    shown = gateway.snowgate("prediction", "show", small)
    assert shown["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "withheld": "redacted", "data": None}
    ]
    assert shown["inputs"][0]["data"] == [0.0, np.float32(0.001).item(), np.float32(0.002).item()]
    assert shown["parameters"] == {"session": "[redacted]", "threshold": 0.5}
    assert (shown["unit"], len(shown["unit_hash"])) == (None, 14)
    assert shown["redactions"] == ["parameters.session", "outputs.y"]
    assert shown["signals"]["confidence"], "they were computed before anything was taken out"
    assert SECRET.encode() not in everything(home)
    (file,) = (home.log / "tensors").glob("??/*.bin")
    assert file.stat().st_size == 900 * 3 * 4
    shown = gateway.snowgate("prediction", "show", large)
    assert shown["inputs"][0]["data_ref"] == f"sha256:{file.parent.name}{file.stem}"
    assert len(shown["inputs"][0]["data"]) == 2_700

    _status, answer, headers = gateway.call(values=[2000.0, 0.0, 0.0])
    assert "larger than 1000" in answer["error"], "the client reads it"
    shown = gateway.snowgate("prediction", "show", headers["Snowgate-Prediction-Id"])
    assert (shown["error"], shown["error_type"], shown["redactions"]) == (None, "model_failed", ["error"])
    lines = [one for one in gateway.log.read_text().splitlines() if "worker w0" in one]
    assert "model_failed" in lines[-1]
    assert "larger than 1000" not in lines[-1]

    told = gateway.snowgate("log", "forget", "--unit", f"a-{SECRET}", "--reason", "asked for")
    assert (told["records"], told["payloads"], told["tensor_files"]) == (2, 2, 0)
    later = call(gateway, 1, f"a-{SECRET}")
    states = [gateway.snowgate("prediction", "show", one)["payload_state"] for one in (small, large, other, later)]
    assert states == ["erased", "erased", "kept", "kept"]
    assert gateway.snowgate("log", "forget", "--prediction", other, "--reason", "asked for")["tensor_files"] == 1
    report = gateway.snowgate("log", "verify")
    counts = (report["records"], report["answered"], report["refused"], report["tombstones"])
    assert (counts, report["first_bad"]) == ((5, 1, 1, 3), None), "a record whose payload was erased counts once"
    assert gateway.stop() == 0
    assert LogReader(home.log).verify().bad == 0


def test_a_rule_that_nobody_can_follow_is_refused(home: Home, packed: Packed, tmp_path: Path, start: Start) -> None:
    """A JSON path that is none ends `serve` with one sentence, before a port is open."""
    (tmp_path / "rules.toml").write_text('[models.signs.log]\nredact_json = ["$.a["]\n')
    with pytest.raises(pytest.fail.Exception, match=r"redact_json = '\$\.a\['"):
        start(home.path, "--config", str(tmp_path / "rules.toml"))
