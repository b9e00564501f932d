"""`snowgate doctor` and `snowgate config`."""

import json
import socket
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from bundles.home import Home
from tests.gateway.test_cli import run


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, on a port that no other test's gateway has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNOWGATE_SERVER__PORT", "0")


def diagnosis(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run doctor; return its exit code and its findings by their names."""
    code, out, _err = run(capsys, "doctor", "-o", "json", *arguments)
    return code, {one["check"]: one for one in json.loads(out)}


def test_doctor_in_an_empty_folder_changes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A newcomer's folder is fine, what is missing for pages is said, and no home is made by asking."""
    code, found = diagnosis(capsys)
    assert code == 0
    assert found["home"]["state"] == "ok"
    assert found["pages"]["state"] == "warning"
    assert {"python", "packages", "sync", "settings", "exposure"} <= found.keys()
    assert list(tmp_path.iterdir()) == []


def test_doctor_sees_a_home_that_is_served(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """The lock of a running gateway is seen without being touched."""
    assert "not served" in diagnosis(capsys, "--home", str(home.path))[1]["home"]["found"]
    with home.lock():
        assert "served by" in diagnosis(capsys, "--home", str(home.path))[1]["home"]["found"]


def test_doctor_finds_a_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody listens on fails the diagnosis, with another port to try."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("SNOWGATE_SERVER__PORT", str(port))
        code, found = diagnosis(capsys)
    assert code == 1
    assert found["data port"]["state"] == "failed"
    assert "--port" in found["data port"]["advice"]


def test_doctor_finds_the_grpc_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The port of gRPC is looked at like the others, wherever it was put, and not when gRPC is off."""
    monkeypatch.setenv("SNOWGATE_SERVER__PORT", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("SNOWGATE_SERVER__GRPC_PORT", str(taken.getsockname()[1]))
        code, found = diagnosis(capsys)
        assert code == 1
        assert "--grpc-port" in found["gRPC port"]["advice"]
        monkeypatch.setenv("SNOWGATE_SERVER__GRPC", "false")
        code, found = diagnosis(capsys)
    assert code == 0
    assert "gRPC port" not in found


def test_doctor_finds_wrong_settings_and_open_doors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another address than loopback without keys, and a misspelt setting, fail the diagnosis."""
    monkeypatch.setenv("SNOWGATE_SERVER__HOST", "0.0.0.0")
    code, found = diagnosis(capsys)
    assert code == 1
    assert "--api-keys-file" in found["exposure"]["found"]
    monkeypatch.setenv("SNOWGATE_SERVER__HOTS", "x")
    code, found = diagnosis(capsys)
    assert code == 1
    assert "did you mean" in found["settings"]["found"]


def test_doctor_tells_of_the_extras(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What pictures and traces need is said with what to install; a password in the endpoint is not shown."""
    _code, found = diagnosis(capsys)
    assert "bundles can decode pictures" in found["images"]["found"]
    assert "no endpoint" in found["tracing"]["found"]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@collector:4318")
    code, found = diagnosis(capsys)
    assert (code, found["tracing"]["state"]) == (0, "ok")
    assert found["tracing"]["found"] == "1.00% of the calls are traced, spans go to collector"
    found_here = Distribution.from_name

    def without_extras(name: str) -> Distribution:
        if name in ("pillow", "opentelemetry-exporter-otlp-proto-http"):
            raise PackageNotFoundError(name)
        return found_here(name)

    monkeypatch.setattr(Distribution, "from_name", without_extras)
    code, found = diagnosis(capsys)
    assert (code, found["tracing"]["state"]) == (1, "failed")
    assert "snowgate[otel]" in found["tracing"]["found"]
    assert (found["images"]["state"], found["images"]["advice"]) == ("ok", "pip install 'snowgate[images]'")


def test_a_home_below_a_file_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A home that can't be made is found before it is needed."""
    (tmp_path / "file").write_text("")
    code, found = diagnosis(capsys, "--home", str(tmp_path / "file" / "home"))
    assert code == 1
    assert found["home"]["state"] == "failed"


def test_config_says_where_each_value_comes_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """File, variable and default are told apart; without --origin the table has two columns."""
    (tmp_path / "snowgate.toml").write_text(
        "[server]\nworkers = 2\n[models.'v1.5']\nreplicas = 3\nlog = { payload_rate = 0.5 }\n"
    )
    _code, out, _err = run(capsys, "config", "show", "--origin", "-o", "json")
    found = {one["key"]: one for one in json.loads(out)}
    assert found["server.workers"] == {"key": "server.workers", "value": 2, "origin": "snowgate.toml"}
    assert found["server.port"]["origin"] == "SNOWGATE_SERVER__PORT"
    assert found["server.host"]["origin"] == "default"
    assert found["models.v1.5.replicas"] == {"key": "models.v1.5.replicas", "value": 3, "origin": "snowgate.toml"}
    assert found["models.v1.5.log.payload_rate"]["value"] == 0.5
    assert run(capsys, "config", "show")[1].splitlines()[0].split() == ["KEY", "VALUE"]
    assert run(capsys, "config", "show", "--origin")[1].splitlines()[0].split() == ["KEY", "VALUE", "ORIGIN"]


def test_config_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema is printed as JSON and names the sections."""
    _code, out, _err = run(capsys, "config", "schema")
    assert {"server", "log", "monitor", "page"} <= json.loads(out)["properties"].keys()
