import json
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
import urllib3

from gateway.admin import create_app
from tests.gateway.conftest import INCIDENT, Story, serving

http = urllib3.PoolManager(retries=False, timeout=10)


def ask(method: str, url: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Ask for JSON; header names have underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = None if body is None else json.dumps(body).encode()
    answer = http.request(method, url, body=data, headers={"Content-Type": "application/json"} | named, redirect=False)
    return answer.status, json.loads(answer.data) if answer.data else None, answer.headers


def test_operations_over_http(admin: str) -> None:
    """A deployment, its rollout, its end, a prediction and a bundle, by the paths that the command line uses."""
    api = f"{admin}/api/v1"
    body = {"reference": "signs@2", "canary": 40, "actor": "ada", "reason": "more", "again": False}
    status, answer, _ = ask("POST", f"{api}/environments/production/deployments", body)
    assert (status, answer["desired"]["canary"]) == (200, 40)
    assert ask("GET", f"{api}/environments/production/deployments/signs")[1]["desired"]["canary"] == 40
    assert ask("GET", f"{api}/environments/production/rollouts/signs")[1]["steps"][-1]["state"] == "waiting"
    act = {"actor": "ada", "reason": "no"}
    scale = f"{api}/environments/production/rollouts/signs/scale"
    assert ask("POST", scale, act | {"replicas": 2})[1]["runners"] == []
    assert ask("POST", scale, act | {"replicas": 65})[0] == 422
    assert ask("POST", f"{api}/environments/production/rollouts/signs/abort", act)[1]["rejected"][0]["version"] == "2"
    assert ask("GET", f"{api}/bundles")[1][0]["version"] == "2"
    assert ask("GET", f"{api}/bundles/signs@1")[1]["version"] == "1"
    assert ask("GET", f"{api}/overview")[1]["models"][0]["model"] == "signs"
    assert {one["signal"] for one in ask("GET", f"{api}/monitors")[1]} >= {"class", "energy"}


def test_predictions_and_incidents_over_http(admin: str, story: Story) -> None:
    """A prediction with and without its chain; an incident is acknowledged and decided."""
    api = f"{admin}/api/v1"
    assert "provenance" not in ask("GET", f"{api}/predictions/{story.answered}")[1]
    assert ask("GET", f"{api}/predictions/{story.answered}?chain=true")[1]["provenance"]["intact"]
    assert [one["id"] for one in ask("GET", f"{api}/incidents?model=signs")[1]] == [INCIDENT]
    assert ask("POST", f"{api}/incidents/{INCIDENT}/acknowledge", {"actor": "ada"})[1]["state"] == "acknowledged"
    body = {"verdict": "world-changed", "actor": "ada", "reason": "it snows"}
    status, answer, _ = ask("POST", f"{api}/incidents/{INCIDENT}/decide", body)
    assert (status, answer["state"]) == (200, "decided")
    assert "new baseline" in answer["effect"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/api/v1/predictions/x", None, 422, "expected a UUID"),
        ("GET", "/api/v1/bundles/signs@9", None, 404, "versions of signs"),
        ("GET", "/api/v1/nothing", None, 404, "/docs lists"),
        ("DELETE", "/api/v1/bundles", None, 411, "Content-Length"),
        ("POST", "/api/v1/environments/production/deployments", {"reference": "signs@1", "percent": 3}, 422, "percent"),
        ("POST", "/api/v1/environments/production/deployments", {"reference": "signs@1", "canary": 0}, 422, "canary"),
        ("POST", "/api/v1/environments/a%20b/deployments", {"reference": "signs@1"}, 422, "environment 'a b'"),
        ("POST", f"/api/v1/incidents/{INCIDENT}/decide", {"verdict": "x", "reason": "y"}, 422, "expected one of"),
        ("GET", "/events?page=/elsewhere", None, 404, "not a live one"),
    ],
)
def test_every_error_is_a_problem(admin: str, method: str, path: str, body: Any, status: int, words: str) -> None:
    """Errors have one shape, RFC 9457, and a sentence that says what was expected."""
    found, document, headers = ask(method, admin + path, body)
    assert found == status
    assert headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance"} <= set(document)
    assert document["status"] == status
    assert words in document["detail"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_another_host_is_refused(admin: str, host: str) -> None:
    """A name that somebody else lets resolve to this machine gets nothing."""
    status, document, _ = ask("GET", f"{admin}/api/v1/overview", Host=host)
    assert (status, document["status"]) == (421, 421)
    assert ask("GET", f"{admin}/livez", Host="localhost:1")[0] == 200


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_another_origin_may_change_nothing(admin: str, headers: dict[str, str]) -> None:
    """A page from elsewhere can't act with the operator's browser; our own can."""
    url = f"{admin}/api/v1/incidents/{INCIDENT}/acknowledge"
    assert ask("POST", url, {"actor": "eve"}, **headers)[0] == 403
    assert ask("POST", url, {"actor": "ada"}, Origin=admin)[0] == 200


def test_a_large_body_is_refused(admin: str) -> None:
    """A body beyond the limit is refused by its length, before it is read."""
    url = f"{admin}/api/v1/incidents/{INCIDENT}/acknowledge"
    assert ask("POST", url, {"actor": "ada", "reason": "x" * 70_000})[0] == 413


def test_keys_are_asked_for_everywhere_but_health(story: Story) -> None:
    """With keys set each of the three ways to give one is taken, and a browser is asked for one."""
    key = "correct horse"
    app = create_app(
        story.operations,
        families=story.families,
        ready=lambda: False,
        allowed_hosts=["*"],
        key_digests=frozenset([sha256(key.encode()).hexdigest()]),
    )
    basic = b64encode(f"ada:{key}".encode()).decode()
    with serving(app) as url:
        for path in ("/", "/metrics", "/api/v1/bundles", "/static/live.js", "/openapi.json"):
            status, _, headers = ask("GET", url + path)
            assert (status, headers["WWW-Authenticate"].split()[0]) == (401, "Basic"), path
        assert ask("GET", f"{url}/api/v1/bundles", X_API_Key="wrong")[0] == 401
        assert ask("GET", f"{url}/api/v1/bundles", X_API_Key=key)[0] == 200
        assert ask("GET", f"{url}/api/v1/bundles", Authorization=f"Bearer {key}")[0] == 200
        assert ask("GET", f"{url}/api/v1/bundles", Authorization=f"Basic {basic}")[0] == 200
        assert ask("GET", f"{url}/api/v1/bundles", Authorization="Basic ??")[0] == 401
        assert ask("GET", f"{url}/livez")[0] == 200
        assert ask("GET", f"{url}/readyz")[0] == 503
        page = http.request("GET", f"{url}/incidents/{INCIDENT}", headers={"Authorization": f"Basic {basic}"})
        assert b'value="ada"' in page.data


def test_metrics_have_what_workers_and_monitor_say(admin: str) -> None:
    """One page has the workers' counters and, from live state, weights, detectors, incidents and pages."""
    answer = http.request("GET", f"{admin}/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = set(answer.data.decode().splitlines())
    assert 'snowgate_requests_total{model="signs",outcome="ok",variant="stable",version="1"} 700.0' in lines
    assert 'snowgate_route_weight_ratio{model="signs",variant="canary",version="2"} 0.2' in lines
    assert 'snowgate_incidents{model="signs",state="open"} 1.0' in lines
    assert 'snowgate_detector_state{detector="categorical",model="signs",signal="class",version="2"} 2.0' in lines
    assert 'snowgate_deployment_phase{environment="production",model="signs",phase="Paused"} 1.0' in lines
    assert 'snowgate_pages_total{outcome="sent"} 1.0' in lines
    expected = 'snowgate_signal_share_ratio{category="8",kind="observed",model="signs",signal="class",version="2"} 0.29'
    assert expected in lines
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = http.request("GET", f"{admin}/metrics", headers=accept)
    assert open_metrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert open_metrics.data.endswith(b"# EOF\n")


def test_description_names_every_operation(admin: str) -> None:
    """openapi.json is OpenAPI 3.1, and /docs shows every path of it without loading anything from elsewhere."""
    _, document, _ = ask("GET", f"{admin}/openapi.json")
    assert document["openapi"].startswith("3.1")
    page = http.request("GET", f"{admin}/docs").data.decode()
    assert len(document["paths"]) >= 15
    for path in document["paths"]:
        assert path in page
    assert "http://" not in page
    assert "https://" not in page


def test_every_answer_carries_the_policy(admin: str) -> None:
    """Pages, files, errors and refusals all forbid a browser to load or to frame anything."""
    for path in ("/", "/static/console.css", "/api/v1/nothing", "/livez"):
        policy = ask_headers(admin + path)["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy


def ask_headers(url: str) -> Any:
    """Return an answer's headers."""
    return http.request("GET", url).headers
