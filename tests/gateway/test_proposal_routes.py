"""Forks and proposals over HTTP, on the files of a real home; who acts is whose API key it is."""

import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from bundles.home import Home
from bundles.signing import make_key, read_signer
from gateway.admin import create_app
from gateway.audit import now
from gateway.operations import Operations
from gateway.vouching import sign_review
from monitors.incidents import Incidents
from state.sqlite import SqliteState

KEY = "k" * 20
NAMED = f"api-key {sha256(KEY.encode()).hexdigest()[:12]}"


@pytest.fixture(name="home")
def _home(packed_home: Path, tmp_path: Path) -> Home:
    """A home of its own, with two versions."""
    return Home(Path(shutil.copytree(packed_home, tmp_path / "home")))


@pytest.fixture(name="client")
def _client(home: Home) -> Iterator[TestClient]:
    """The control port's application, which asks for a key."""
    state = SqliteState(home.state)
    operations = Operations(home, state, Incidents(state, now))
    operations.deploy("signs@1", "production", actor="ada")
    digests = frozenset({sha256(KEY.encode()).hexdigest()})
    app = create_app(operations, families=list, ready=lambda: True, allowed_hosts=["testserver"], key_digests=digests)
    with TestClient(app, headers={"X-API-Key": KEY}) as client:
        yield client
    operations.labels.close()
    state.close()


def good(answer: httpx.Response) -> dict[str, Any]:
    """Return the body of an answer that is no error."""
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_proposal_by_http(client: TestClient, home: Home, tmp_path: Path) -> None:
    """Fork, open, review with a key that stays with its owner, merge: the caller's API key is in each step."""
    forked = good(client.post("/api/v1/forks", json={"reference": "signs@2", "branch": "signs@ana", "actor": "ana"}))
    assert forked["version"] == "2"
    body = {"branch": "signs@ana", "environment": "production", "text": "better", "actor": "ana"}
    opened = good(client.post("/api/v1/proposals", json=body))
    assert opened["actor"] == f"ana ({NAMED})"
    place = f"/api/v1/proposals/{opened['id']}"
    make_key(tmp_path / "ben.pem")
    signer = read_signer(tmp_path / "ben.pem")
    (tmp_path / "ben.pub").write_bytes(home.keys().public_pem())
    head, base = opened["head"]["digest"], opened["base"]["digest"]
    signed = sign_review(head, "signs", "production", base, signer, approve=True, comment="", by="ben")
    refused = client.post(f"{place}/reviews", json={"approve": True, "envelope": signed})
    assert refused.status_code == 422
    assert "does not trust" in refused.json()["detail"]
    stale = sign_review(head, "signs", "production", None, home.keys().signer(), approve=True, comment="", by="ben")
    assert client.post(f"{place}/reviews", json={"approve": True, "envelope": stale}).status_code == 409
    reviewed = good(client.post(f"{place}/reviews", json={"approve": True, "comment": "yes", "actor": "ben"}))
    (review,) = reviewed["reviews"]
    assert (review["by"], review["name"]) == (f"ben ({NAMED})", "home")
    assert [one["id"] for one in client.get("/api/v1/proposals").json()] == [opened["id"]]
    assert good(client.post(f"{place}/merge", json={"reason": "go"}))["state"] == "merged"
    assert good(client.get(place))["state"] == "merged"
    assert client.post(f"{place}/close", json={}).status_code == 409
    assert client.get("/api/v1/proposals").json() == []
    found = good(client.get("/api/v1/environments/production/deployments/signs"))
    assert (found["desired"]["version"], found["desired"]["actor"]) == ("2", f"api ({NAMED})")


def test_without_a_key_nothing_is_proposed(client: TestClient) -> None:
    """The routes are behind the same guard as all others."""
    answer = client.post("/api/v1/proposals", json={}, headers={"X-API-Key": "wrong"})
    assert answer.status_code == 401
