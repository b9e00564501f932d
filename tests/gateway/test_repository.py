"""The model repository extension on a real gateway with two workers: index, load, unload, and who may."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import tritonclient.http

from bundles.home import Home
from bundles.packing import Packed, pack
from state.sqlite import SqliteState
from tests.conftest import Gateway, write_model

ON = {"SNOWGATE_SERVER__REPOSITORY_API": "true", "SNOWGATE_SERVER__WORKERS": "2"}
LOAD = "/v2/repository/models/signs/load"
UNLOAD = "/v2/repository/models/signs/unload"


def ask(gateway: Gateway, path: str, document: Any = None) -> tuple[int, Any]:
    """Post a small JSON body; return status and document, None for an empty one."""
    body = b"" if document is None else orjson.dumps(document)
    answer = gateway.http.request("POST", gateway.url + path, body=body)
    return answer.status, orjson.loads(answer.data) if answer.data else None


def index(gateway: Gateway, **document: Any) -> list[dict[str, str]]:
    """Ask what there is."""
    status, rows = ask(gateway, "/v2/repository/index", document)
    assert status == 200
    return list(rows)


def test_load_and_unload_are_deployments(home: Home, packed: Packed, start: Callable[..., Gateway]) -> None:
    """A load answers when every worker serves, an unload when none does; both are in git and in the audit log."""
    gateway = start(home.path, variables=ON)
    assert index(gateway) == [{"name": "signs", "version": "1", "state": "UNAVAILABLE", "reason": "not deployed"}]
    assert index(gateway, ready=True) == []
    for _ in range(2):  # The second time around everything is known already.
        assert gateway.call()[0] == 404
        assert ask(gateway, LOAD, {}) == (200, None)
        # Each on a connection of its own, so that both workers are asked.
        assert {gateway.call(Connection="close")[0] for _ in range(20)} == {200}
        assert index(gateway) == [{"name": "signs", "version": "1", "state": "READY", "reason": ""}]
        assert ask(gateway, "/v2/repository/any/models/signs/load") == (200, None), "loaded already"
        assert ask(gateway, UNLOAD, {"parameters": {"unload_dependents": True}}) == (200, None)
        assert {gateway.call(Connection="close")[0] for _ in range(20)} == {404}
        assert ask(gateway, UNLOAD) == (200, None), "unloaded already"
    history = home.refs().history("refs/environments/production/signs")
    assert [one.digest for one in history] == [None, packed.digest, None, packed.digest]
    assert {one.actor for one in history} == {"repository API"}
    state = SqliteState(home.state)
    try:
        entries = [one.body for one in state.list("audit/") if one.body["actor"] == "repository API"]
    finally:
        state.close()
    assert [one["action"] for one in entries] == ["deploy", "withdraw", "deploy", "withdraw"]
    assert {one["subject"] for one in entries} == {"signs"}


def test_what_can_not_be_loaded(home: Home, packed: Packed, tmp_path: Path, start: Callable[..., Gateway]) -> None:
    """Overrides, bad names, unknown models and a broken bundle are refused, each with its reason."""
    broken = write_model(tmp_path / "broken", sign=3.0)
    digest = pack(home, broken, model="broken").digest
    gateway = start(home.path, variables=ON)
    for parameters in ({"config": "{}"}, {"file:1/model.py": "cHJpbnQ="}):
        status, answer = ask(gateway, LOAD, {"parameters": parameters})
        assert status == 400
        assert answer["error"].startswith("failed to load 'signs', parameters.")
        assert "as it was packed and signed" in answer["error"]
    assert ask(gateway, LOAD, {"parameters": {"speed": 1}})[0] == 400
    assert ask(gateway, LOAD, {"parameters": []})[0] == 400
    assert ask(gateway, UNLOAD, {"parameters": {"unload_dependents": "yes"}})[0] == 400
    for name in ("a..b", "%20%20", "a%2Fb", "..%2F..%2Fetc", "-x", "a" * 200):
        for verb in ("load", "unload"):
            status, answer = ask(gateway, f"/v2/repository/models/{name}/{verb}")
            assert (status, set(answer)) == (400, {"error"}), name
    for verb in ("load", "unload"):
        status, answer = ask(gateway, f"/v2/repository/models/nope/{verb}")
        assert status == 404
        assert answer["error"].startswith(f"failed to {verb} 'nope', ")
    files = gateway.snowgate("bundle", "show", "broken@1")["files"]
    recipe = next(one["digest"] for one in files if one["path"] == "model/bundle.toml").removeprefix("sha256:")
    blob = home.path / "bundles" / "blobs" / "sha256" / recipe
    blob.write_bytes(blob.read_bytes() + b"#")
    status, answer = ask(gateway, "/v2/repository/models/broken/load")
    assert status == 400
    assert answer["error"].startswith("failed to load 'broken', version 1 can't be served")
    row = next(one for one in index(gateway) if one["name"] == "broken")
    assert row["state"] == "UNAVAILABLE"
    assert "can't be served" in row["reason"]
    deployed = home.refs().get("refs/environments/production/broken")
    assert deployed is not None
    assert deployed.digest == digest
    assert ask(gateway, "/v2/repository/index", {"ready": "yes"})[0] == 400
    assert ask(gateway, "/v2/repository/index", [])[0] == 400
    answer = gateway.http.request("POST", gateway.url + LOAD, body=b"{" * 2_000_000)
    assert answer.status == 413


def test_loads_at_once(home: Home, packed: Packed, start: Callable[..., Gateway]) -> None:
    """Many who load the same model at the same time are all told when it is there, and one deployment is made."""
    gateway = start(home.path, variables=ON)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(gateway, LOAD)[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 6
    assert len(home.refs().history("refs/environments/production/signs")) == 1


def test_triton_client_controls_the_repository(home: Home, packed: Packed, start: Callable[..., Gateway]) -> None:
    """The reference client loads, lists and unloads as it comes."""
    gateway = start(home.path, variables=ON)
    client = tritonclient.http.InferenceServerClient(gateway.url.removeprefix("http://"), network_timeout=60)
    assert "model_repository" in client.get_server_metadata()["extensions"]
    client.load_model("signs")
    assert client.is_model_ready("signs")
    assert client.get_model_repository_index()[0]["state"] == "READY"
    with pytest.raises(Exception, match="expected no overrides"):
        client.load_model("signs", config='{"backend": "python"}')
    client.unload_model("signs")
    assert not client.is_model_ready("signs")
    client.close()


def test_restricted_unless_switched_on(gateway: Gateway) -> None:
    """By default clients may look, and not load or unload; the answer says what to set."""
    for path in (LOAD, UNLOAD):
        status, answer = ask(gateway, path)
        assert status == 403
        assert answer["error"].startswith("This API is restricted")
        assert "repository_api = true" in answer["error"]
    assert {one["state"] for one in index(gateway)} == {"READY"}
    assert "model_repository" not in gateway.get("/v2")[1]["extensions"]
    assert gateway.call()[0] == 200
