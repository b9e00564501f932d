import json
from pathlib import Path

import pytest
import urllib3

from bundles.home import Home
from gateway.audit import now
from gateway.operations import OperationError, Operations
from monitors.incidents import Incidents
from monitors.outages import Outages
from state import Change
from state.sqlite import SqliteState
from tests.gateway.conftest import INCIDENT, Story, take_up


def audited(story: Story, action: str) -> list[dict[str, object]]:
    """Return the audit entries of one action."""
    return [one.body for one in story.state.list("audit/") if one.body["action"] == action]


def test_deploy_moves_the_ref_and_says_that_control_has_to_follow(story: Story) -> None:
    """A deployment is desired at once, with actor, reason and canary, and is not yet what is."""
    answer = story.operations.deploy("signs@2", "production", canary=50, actor="ada", reason="half")
    assert answer["desired"]["version"] == "2"
    assert (answer["desired"]["canary"], answer["desired"]["actor"], answer["desired"]["reason"]) == (50, "ada", "half")
    assert (answer["phase"], answer["settled"]) == ("Progressing", False)
    assert "snowgate serve" in answer["difference"]
    take_up(story.operations)
    after = story.operations.deployment("signs", "production")
    assert (after["phase"], after["settled"], after["difference"]) == ("Paused", True, None)
    assert [one["reason"] for one in audited(story, "deploy")][-1] == "half"


@pytest.mark.parametrize(
    ("reference", "canary", "status", "words"),
    [
        ("signs@99", None, 404, "versions of signs: 1, 2"),
        ("nobody@1", None, 404, "no model 'nobody'"),
        ("signs", None, 404, "expected model@version"),
        ("signs@1", 0, 422, "1 to 99"),
        ("signs@1", 100, 422, "1 to 99"),
    ],
)
def test_deploy_refuses_what_can_not_be(
    story: Story, reference: str, canary: int | None, status: int, words: str
) -> None:
    """Each wrong argument is refused with a sentence that says what was expected, and nothing moves."""
    before = story.operations.deployment("signs", "production")
    with pytest.raises(OperationError, match=words) as caught:
        story.operations.deploy(reference, "production", canary=canary, actor="ada")
    assert caught.value.status == status
    assert story.operations.deployment("signs", "production") == before


def test_promote_desires_all_traffic(story: Story) -> None:
    """Promoting takes the canary's percentage away; a second time there is nothing to promote."""
    answer = story.operations.promote("signs", "production", actor="ada", reason="good for an hour")
    assert (answer["desired"]["version"], answer["desired"]["canary"]) == ("2", None)
    take_up(story.operations)
    assert story.operations.rollout("signs", "production")["phase"] == "Healthy"
    with pytest.raises(OperationError, match="no canary"):
        story.operations.promote("signs", "production", actor="ada")


def test_abort_rejects_and_only_again_with_a_reason_allows_it(story: Story) -> None:
    """An aborted canary's digest is rejected, can't be deployed, and comes back when somebody says why."""
    answer = story.operations.abort("signs", "production", actor="ada", reason="too many eights")
    assert answer["rejected"][0]["version"] == "2"
    assert not answer["settled"]
    assert "rejected" in answer["effect"]
    with pytest.raises(OperationError, match="rejected in production by ada: too many eights") as caught:
        story.operations.deploy("signs@2", "production", actor="grace")
    assert caught.value.status == 409
    with pytest.raises(OperationError, match="needs --reason"):
        story.operations.deploy("signs@2", "production", actor="grace", again=True)
    allowed = story.operations.deploy("signs@2", "production", actor="grace", again=True, reason="the camera was dirty")
    assert allowed["rejected"] == []
    assert allowed["desired"]["version"] == "2"
    assert story.operations.deploy("signs@2", "staging", actor="grace")["environment"] == "staging"


def test_scale_is_kept_and_told(story: Story) -> None:
    """How many runners a model gets is in live state, with who wanted it; a number out of range changes nothing."""
    story.operations.scale("signs", "production", 3, actor="ada", reason="a busy day")
    kept = story.state.get("scale/production/signs")
    assert kept is not None
    assert (kept.body["replicas"], kept.body["actor"]) == (3, "ada")
    for model, replicas, status in (("signs", 0, 422), ("signs", 65, 422), ("nobody", 2, 404)):
        with pytest.raises(OperationError) as caught:
            story.operations.scale(model, "production", replicas, actor="ada")
        assert caught.value.status == status
    assert [one["reason"] for one in audited(story, "scale")] == ["a busy day"]
    story.operations.scale("signs", "production", None, actor="ada")
    assert story.state.get("scale/production/signs") is None


def test_abort_leaves_the_ref_to_control(story: Story) -> None:
    """Only one writer moves the ref back: control, which also moves the route. The rejection is all that it needs."""
    before = story.operations.deployment("signs", "production")["desired"]
    story.operations.abort("signs", "production", actor="ada", reason="no")
    assert story.operations.deployment("signs", "production")["desired"] == before
    with pytest.raises(OperationError, match="not deployed in elsewhere"):
        story.operations.abort("signs", "elsewhere", actor="ada", reason="no")


def test_rollout_tells_its_steps(story: Story) -> None:
    """A running canary has its steps with their states, and the two commands that go on."""
    rollout = story.operations.rollout("signs", "production")
    assert rollout["running"]
    assert [one["state"] for one in rollout["steps"]] == ["done", "current", "waiting"]
    assert [one.split()[2] for one in rollout["commands"]] == ["promote", "abort"]


def test_prediction_is_told_whole_in_json(story: Story) -> None:
    """Tensors come out in the protocol's JSON form, all of it JSON: NaN is null, bytes are text."""
    found = json.loads(json.dumps(story.operations.prediction(story.answered), allow_nan=False))
    assert found["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.5, None, -2.0]},
        {"name": "tag", "datatype": "BYTES", "shape": [1], "data": ["ok"]},
    ]
    assert found["outputs"][0]["data"] == [0.25, -0.25]
    assert (found["unit"], found["variant"], found["probability"]) == ("camera-7", "canary", 0.2)
    assert found["time"].endswith("Z")
    assert "provenance" not in found


def test_refused_prediction_has_no_chain(story: Story) -> None:
    """What no bundle answered is found as well, with its error and without provenance."""
    found = story.operations.prediction(story.refused, chain_wanted=True)
    assert (found["kind"], found["status"], found["provenance"]) == ("refused", 400, None)
    assert found["error"].startswith("input 'x'")


@pytest.mark.parametrize(("id", "status"), [("no-id", 422), ("00e8d4a5-1000-7000-810b-21a219d51edf", 404)])
def test_unknown_prediction_is_a_sentence(story: Story, id: str, status: int) -> None:
    """An id that is none, and one that is nobody's, are told apart."""
    with pytest.raises(OperationError, match=id) as caught:
        story.operations.prediction(id)
    assert caught.value.status == status


def test_incident_is_acknowledged_and_decided(story: Story) -> None:
    """Both are written to the incident's history and to the audit log; the answer says what comes of a decision."""
    work = story.operations
    assert [one["id"] for one in work.incidents("signs")] == [INCIDENT]
    assert work.incidents("others") == []
    assert work.acknowledge(INCIDENT, actor="ada")["state"] == "acknowledged"
    with pytest.raises(OperationError, match="expected") as caught:
        work.decide(INCIDENT, "broken", actor="ada", reason="x")
    assert caught.value.status == 422
    with pytest.raises(OperationError, match="reason"):
        work.decide(INCIDENT, "model-broken", actor="ada", reason=" ")
    decided = work.decide(INCIDENT, "model-broken", actor="ada", reason="eights everywhere")
    assert decided["state"] == "decided"
    assert "signs@2 --again" in decided["effect"]
    with pytest.raises(OperationError) as caught:
        work.acknowledge(INCIDENT, actor="ada", reason="too late")
    assert caught.value.status == 409
    assert len(audited(story, "acknowledge")) == len(audited(story, "decide")) == 1
    with pytest.raises(OperationError, match="unknown") as caught:
        work.incident("nobody")
    assert caught.value.status == 404


def test_bundles_have_their_names(story: Story) -> None:
    """Every bundle is listed with digest, version and all the names that lead to it; one is shown by any of them."""
    listed = story.operations.bundles()
    assert [one["version"] for one in listed] == ["2", "1"]
    assert set(listed[0]) == {"digest", "model", "version", "refs", "created", "reproduced"}
    assert listed[0]["refs"] == ["signs@2", "signs@main", "signs@production"]
    assert story.operations.bundle("signs@production")["digest"] == listed[0]["digest"]


def test_overview_puts_the_worst_first(story: Story) -> None:
    """One document has versions with weights, distributions, detectors, the incident and the rollout."""
    story.operations.deploy("signs@1", "production", actor="ada", again=True, reason="for the test")
    take_up(story.operations)
    route = story.state.get("routes/signs")
    assert route is not None
    story.state.commit(Change("routes/calm", route.body | {"model": "calm"}))
    view = story.operations.overview()
    assert [one["model"] for one in view["models"]] == ["signs", "calm"]
    assert view["monitor"]["processed"] == 51_234
    assert not view["monitor"]["stale"]
    assert [one["id"] for one in view["incidents"]] == [INCIDENT]


def test_overview_compares_what_is_with_what_was_expected(story: Story) -> None:
    """Each version's classes come with both shares and both sample sizes; its worst detector comes first."""
    stable, canary = story.operations.overview()["models"][0]["versions"]
    assert (stable["weight"], canary["weight"]) == (0.8, 0.2)
    assert canary["classes"][0]["rows"] == 1_000
    assert canary["classes"][0]["shares"][8] == {"class": "8", "observed": 0.29, "expected": 0.1}
    assert [one["state"] for one in canary["detectors"]] == ["drift", "warning", "not-enough-data", "quiet"]
    assert canary["traffic"] is None


def test_an_empty_home_has_an_overview(tmp_path: Path) -> None:
    """Before anything is packed there is nothing to show, which is no error."""
    home = Home(tmp_path / "empty").make()
    state = SqliteState(home.state)
    view = Operations(home, state, Incidents(state, now)).overview()
    state.close()
    assert (view["models"], view["incidents"], view["monitor"]) == ([], [], None)


def test_an_incident_about_a_runner_is_decided_in_its_own_words(story: Story) -> None:
    """`world-changed` of a runner makes no baseline: the answer says how the version is started again."""
    Outages(story.state, "http://127.0.0.1:8082", "production", now).parked("signs", "2", "sha256:2", "it died", "why")
    (incident,) = [one for one in story.operations.incidents() if one.get("cause") == "runner"]
    decided = story.operations.decide(incident["id"], "world-changed", actor="ada", reason="the disk was full")
    assert "deploy signs@2 --again" in decided["effect"]


def test_an_incident_about_the_log_is_decided_by_nobody(story: Story, admin: str) -> None:
    """It ends by itself: a verdict is refused, and its page asks about the disk instead of about a model."""
    Outages(story.state, "http://127.0.0.1:8082", "production", now).log_fails("No space left on device (worker w0)")
    (incident,) = [one for one in story.operations.incidents() if one.get("cause") == "log"]
    with pytest.raises(OperationError, match="about the log") as refused:
        story.operations.decide(incident["id"], "model-broken", actor="ada", reason="it must be somebody's fault")
    assert refused.value.status == 409
    pages = [urllib3.request("GET", admin + path).data.decode() for path in (f"/incidents/{incident['id']}", "/")]
    for page in pages:
        assert "Has the disk of the log room" in page
    assert "Is the model broken" not in pages[0]
    assert "No space left on device" in pages[0]
