"""Forks and proposals over HTTP, on the files of a real home; who acts is whose API key it is."""

import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bundles.home import Home
from bundles.signing import make_key, read_signer
from gateway.admin import create_app
from gateway.audit import now
from gateway.operations import Operations
from gateway.vouching import sign_review
from monitors.incidents import Incidents
from state.sqlite import SqliteState
from tests.gateway.conftest import serving
from tests.gateway.test_admin import ask

KEY = "k" * 20
NAMED = f"api-key {sha256(KEY.encode()).hexdigest()[:12]}"


@pytest.fixture(name="home")
def _home(packed_home: Path, tmp_path: Path) -> Home:
    """A home of its own, with two versions."""
    return Home(Path(shutil.copytree(packed_home, tmp_path / "home")))


@pytest.fixture(name="api")
def _api(home: Home) -> Iterator[str]:
    """The admin API of a control port that asks for a key; its URL."""
    state = SqliteState(home.state)
    operations = Operations(home, state, Incidents(state, now))
    operations.deploy("signs@1", "production", actor="ada")
    digests = frozenset({sha256(KEY.encode()).hexdigest()})
    app = create_app(operations, families=list, ready=lambda: True, allowed_hosts=["127.0.0.1"], key_digests=digests)
    with serving(app) as url:
        yield f"{url}/api/v1"
    operations.labels.close()
    state.close()


def good(method: str, url: str, body: Any = None) -> Any:
    """Return the body of an answer that is no error."""
    status, document, _headers = ask(method, url, body, X_API_Key=KEY)
    assert status == 200, document
    return document


def test_a_proposal_by_http(api: str, home: Home, tmp_path: Path) -> None:
    """Fork, open, review with a key that stays with its owner, merge: the caller's API key is in each step."""
    forked = good("POST", f"{api}/forks", {"reference": "signs@2", "branch": "signs@ana", "actor": "ana"})
    assert forked["version"] == "2"
    body = {"branch": "signs@ana", "environment": "production", "text": "better", "actor": "ana"}
    opened = good("POST", f"{api}/proposals", body)
    assert opened["actor"] == f"ana ({NAMED})"
    place = f"{api}/proposals/{opened['id']}"
    make_key(tmp_path / "ben.pem")
    signer = read_signer(tmp_path / "ben.pem")
    head, base = opened["head"]["digest"], opened["base"]["digest"]
    signed = sign_review(head, "signs", "production", base, signer, approve=True, comment="", by="ben")
    status, answer, _ = ask("POST", f"{place}/reviews", {"approve": True, "envelope": signed}, X_API_Key=KEY)
    assert status == 422
    assert "does not trust" in answer["detail"]
    stale = sign_review(head, "signs", "production", None, home.keys().signer(), approve=True, comment="", by="ben")
    assert ask("POST", f"{place}/reviews", {"approve": True, "envelope": stale}, X_API_Key=KEY)[0] == 409
    reviewed = good("POST", f"{place}/reviews", {"approve": True, "comment": "yes", "actor": "ben"})
    (review,) = reviewed["reviews"]
    assert (review["by"], review["name"]) == (f"ben ({NAMED})", "home")
    assert [one["id"] for one in good("GET", f"{api}/proposals")] == [opened["id"]]
    assert good("POST", f"{place}/merge", {"reason": "go"})["state"] == "merged"
    assert good("GET", place)["state"] == "merged"
    assert ask("POST", f"{place}/close", {}, X_API_Key=KEY)[0] == 409
    assert good("GET", f"{api}/proposals") == []
    found = good("GET", f"{api}/environments/production/deployments/signs")
    assert (found["desired"]["version"], found["desired"]["actor"]) == ("2", f"api ({NAMED})")


def test_without_a_key_nothing_is_proposed(api: str) -> None:
    """The routes are behind the same guard as all others."""
    assert ask("POST", f"{api}/proposals", {}, X_API_Key="wrong")[0] == 401
