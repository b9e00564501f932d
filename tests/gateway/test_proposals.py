import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer._crypto_signer import CryptoSigner

from bundles.home import Home
from bundles.policy_file import inline
from bundles.refs import GitRefs
from bundles.signing import make_key, read_signer
from gateway.audit import now
from gateway.operations import OperationError, Operations
from gateway.proposals import Proposals
from gateway.together import Together
from monitors.incidents import Incidents
from state.sqlite import SqliteState

POLICY = """
[keys.home]
key = "{home}"
roles = ["trainer", "approver"]
executes = ["code"]

[keys.ben]
key = "{ben}"
roles = ["approver"]

[keys.cem]
key = "{cem}"
roles = ["tester"]

[environments.production]
trained = true
approved = 1
"""


@dataclass
class Team:
    """A home in which signs@1 serves and signs@2 is on ana's branch, and the people who work there."""

    home: Home
    operations: Operations
    keys: Path

    @property
    def proposals(self) -> Proposals:
        """What people do."""
        return Proposals(self.operations)

    @property
    def together(self) -> Together:
        """What else they do."""
        return Together(self.operations)

    def write_policy(self) -> None:
        """Ask for an approval, of ben's."""
        keys = {name: inline(self.key(name).public_key) for name in ("ben", "cem")}
        home = inline(self.home.keys().signer().public_key)
        (self.home.path / "policy.toml").write_text(POLICY.format(home=home, **keys))

    def key(self, name: str) -> CryptoSigner:
        """A person's private key."""
        return read_signer(self.keys / f"{name}.pem")

    def serves(self) -> str | None:
        """The version that production shall serve."""
        deployment = self.operations.deployment("signs", "production")
        return None if deployment["desired"] is None else str(deployment["desired"]["version"])

    def audited(self) -> list[tuple[str, str]]:
        """Who did what."""
        return [(one.body["actor"], one.body["action"]) for one in self.operations.state.list("audit/")]


@pytest.fixture(name="team")
def _team(packed_home: Path, tmp_path: Path) -> Iterator[Team]:
    """A team of its own for each test."""
    home = Home(Path(shutil.copytree(packed_home, tmp_path / "home")))
    state = SqliteState(home.state)
    operations = Operations(home, state, Incidents(state, now))
    for name in ("ben", "cem", "eve"):
        make_key(tmp_path / f"{name}.pem")
    operations.deploy("signs@1", "production", actor="ada", reason="the first one")
    Together(operations).fork("signs@2", "signs@ana", actor="ana")
    yield Team(home, operations, tmp_path)
    operations.labels.close()
    state.close()


def test_from_a_proposal_to_production(team: Team) -> None:
    """Opened, refused without a review, approved with a signature, merged: the ref moves, and each step is audited."""
    team.write_policy()
    opened = team.proposals.open("signs@ana", "production", text="twice as sure", actor="ana")
    name = opened["id"]
    assert (opened["state"], opened["head"]["version"], opened["base"]["version"]) == ("open", "2", "1")
    assert not opened["mergeable"]
    with pytest.raises(OperationError, match="0 of 1 approvers approved it") as caught:
        team.proposals.merge(name, actor="ana")
    assert caught.value.status == 409
    assert team.serves() == "1"
    reviewed = team.proposals.review(name, approve=True, comment="good", actor="ben", signer=team.key("ben"))
    (review,) = reviewed["reviews"]
    assert (review["name"], review["decision"], review["counts"]) == ("ben", "approve", True)
    assert reviewed["mergeable"]
    merged = team.proposals.merge(name, actor="ana")
    assert merged["state"] == "merged"
    assert team.serves() == "2"
    assert team.audited()[-4:] == [("ana", "fork"), ("ana", "propose"), ("ben", "review"), ("ana", "merge")]
    assert [one["actor"] for one in merged["history"]] == ["ana", "ben", "ana"]
    ref = team.operations.refs.get("refs/environments/production/signs")
    assert ref is not None
    assert ref.details["proposal"] == name
    assert team.together.check("signs@2", "production")["passed"], "the review lies beside the bundle too"


def test_without_a_policy_a_proposal_merges_unreviewed(team: Team) -> None:
    """A home alone asks for nothing; who opened it is who merges it."""
    name = team.proposals.open("signs@ana", "production", text="", actor="ana")["id"]
    assert team.proposals.merge(name, canary=10, actor="ana")["state"] == "merged"
    desired = team.operations.deployment("signs", "production")["desired"]
    assert (desired["version"], desired["canary"]) == ("2", 10)


def test_a_moved_base_needs_another_look(team: Team) -> None:
    """When production has moved, approvals are stale and the merge says what to do; a new review goes through."""
    team.write_policy()
    team.together.fork("signs@1", "signs@old", actor="ana")
    name = team.proposals.open("signs@ana", "production", text="", actor="ana")["id"]
    team.proposals.review(name, approve=True, comment="", actor="ben", signer=team.key("ben"))
    team.operations.withdraw("signs", "production", actor="ada")
    shown = team.proposals.show(name)
    assert shown["base_moved"]
    assert [one["counts"] for one in shown["reviews"]] == [False]
    with pytest.raises(OperationError, match=f"production has moved .* proposal review {name} --approve") as caught:
        team.proposals.merge(name, actor="ana")
    assert f"snowgate proposal merge {name} --retrain" in str(caught.value)
    team.proposals.review(name, approve=True, comment="still", actor="ben", signer=team.key("ben"))
    assert team.proposals.merge(name, actor="ana")["state"] == "merged"


def test_a_proposal_follows_its_branch(team: Team) -> None:
    """What was reviewed is a digest: when the branch goes on, the review is of something else, and said to be."""
    team.write_policy()
    name = team.proposals.open("signs@ana", "production", text="", actor="ana")["id"]
    team.proposals.review(name, approve=True, comment="", actor="ben", signer=team.key("ben"))
    head = team.operations.refs.get("refs/heads/signs/ana")
    assert head is not None
    first = team.operations.resolve("signs@1")[0]
    team.operations.refs.set(head.name, first, expected=head.commit, actor="ana", reason="back")
    shown = team.proposals.show(name)
    assert shown["head"]["version"] == "1"
    assert [(one["counts"], "about another bundle" in one["problem"]) for one in shown["reviews"]] == [(False, True)]
    assert not shown["mergeable"]


def test_who_is_not_heard_is_told_before_signing(team: Team) -> None:
    """An unknown key, a key of another role, and the trainer's own approval: each is refused in its own words."""
    team.write_policy()
    name = team.proposals.open("signs@ana", "production", text="", actor="ana")["id"]
    for who, said in (("eve", "does not name it"), ("cem", "is tester and no approver")):
        with pytest.raises(OperationError, match=said):
            team.proposals.review(name, approve=True, comment="", actor=who, signer=team.key(who))
    team.proposals.review(name, approve=True, comment="mine", actor="ana")
    assert "home trained it, and can't approve it" in team.proposals.show(name)["message"]


def test_a_rejection_blocks_until_it_is_taken_back(team: Team) -> None:
    """An approver's no stands against others' yes; their next word counts instead."""
    team.write_policy()
    name = team.proposals.open("signs@ana", "production", text="", actor="ana")["id"]
    rejected = team.proposals.review(name, approve=False, comment="worse at night", actor="ben", signer=team.key("ben"))
    assert "ben rejected it: worse at night" in rejected["message"]
    approved = team.proposals.review(name, approve=True, comment="", actor="ben", signer=team.key("ben"))
    assert approved["mergeable"]


def test_a_merge_that_was_cut_off_is_finished(team: Team) -> None:
    """When the ref was moved and nobody could say so any more, merging again notes it, and moves nothing."""
    name = team.proposals.open("signs@ana", "production", text="", actor="ana")["id"]
    team.operations.deploy("signs@2", "production", actor="ana")
    moves = len(team.operations.refs.history("refs/environments/production/signs"))
    assert team.proposals.merge(name, actor="ana")["state"] == "merged"
    assert len(team.operations.refs.history("refs/environments/production/signs")) == moves


def test_what_can_not_be_done_says_why(team: Team) -> None:
    """Unknown names, twice the same, closed and rejected: each has its status and its sentence."""
    work, together = team.proposals, team.together
    cases: list[tuple[Callable[[], Any], int, str]] = [
        (lambda: work.show("signs-1"), 404, "snowgate proposal list"),
        (lambda: work.show("../x"), 404, "unknown"),
        (lambda: work.open("signs@nobody", "production", text="", actor="a"), 404, "snowgate bundle fork"),
        (lambda: work.open("signs", "production", text="", actor="a"), 422, "expected MODEL@BRANCH"),
        (lambda: work.open("signs@ana", "a/b", text="", actor="a"), 422, "environment"),
        (lambda: work.open("signs@ana", "production", text="x" * 20_000, actor="a"), 422, "20000 characters"),
        (lambda: together.fork("signs@9", "signs@x", actor="a"), 404, "unknown"),
        (lambda: together.fork("signs@1", "signs@ana", actor="a"), 409, "is there already"),
        (lambda: together.fork("signs@1", "cars@x", actor="a"), 422, "another name"),
        (lambda: together.fork("signs@1", "signs@7", actor="a"), 422, "version or an environment"),
        (lambda: together.fork("signs@1", "signs@production", actor="a"), 422, "version or an environment"),
    ]
    for do, status, said in cases:
        with pytest.raises(OperationError, match=said) as caught:
            do()
        assert caught.value.status == status
    name = work.open("signs@ana", "production", text="", actor="a")["id"]
    work.close(name, actor="a", reason="superseded")
    assert work.list() == []
    assert [one["state"] for one in work.list("closed")] == ["closed"]
    with pytest.raises(OperationError, match="was closed by a"):
        work.merge(name, actor="a")
    with pytest.raises(OperationError, match="was closed by a"):
        work.close(name, actor="a")


def test_a_rejected_head_is_not_merged(team: Team) -> None:
    """What was aborted in an environment does not come back by a proposal."""
    name = team.proposals.open("signs@ana", "production", text="", actor="ana")["id"]
    team.operations.deploy("signs@2", "production", canary=5, actor="ana")
    team.operations.abort("signs", "production", actor="ada", reason="worse")
    team.operations.deploy("signs@1", "production", actor="ada")
    with pytest.raises(OperationError, match="its head was rejected in production by ada: worse"):
        team.proposals.merge(name, actor="ana")


def test_of_two_who_merge_at_once_one_wins(team: Team) -> None:
    """Two real processes merge two proposals for one environment: one goes through, the other is told what to do."""
    team.operations.withdraw("signs", "production", actor="ada")
    team.together.fork("signs@1", "signs@ben", actor="ben")
    names = [team.proposals.open(f"signs@{who}", "production", text="", actor=who)["id"] for who in ("ana", "ben")]
    command = [sys.executable, "-m", "gateway.cli", "proposal", "merge", "--home", str(team.home.path), "-o", "json"]
    merging = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for name in names
    ]
    said = [one.communicate()[1] for one in merging]
    statuses = [one.returncode for one in merging]
    assert sorted(statuses) == [0, 1], said
    assert team.serves() == ("2", "1")[statuses.index(0)]
    lost = said[statuses.index(1)]
    assert "production has moved" in lost
    assert "--retrain" in lost
    assert [one["state"] for one in team.proposals.list("all")].count("merged") == 1


def test_proposals_travel_through_a_git_remote(team: Team, tmp_path: Path) -> None:
    """What was reviewed here is merged there: git carries the refs, the reviews are in them."""
    team.write_policy()
    name = team.proposals.open("signs@ana", "production", text="", actor="ana")["id"]
    there = Home(Path(shutil.copytree(team.home.path, tmp_path / "there")))
    team.proposals.review(name, approve=True, comment="", actor="ben", signer=team.key("ben"))
    remote = tmp_path / "remote.git"
    git = ["git", "--git-dir"]
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    sent = "refs/proposals/*"
    subprocess.run([*git, str(team.home.path / "refs.git"), "push", "-q", str(remote), sent], check=True)
    fetched = [*git, str(there.path / "refs.git"), "fetch", "-q", str(remote), f"{sent}:{sent}"]
    subprocess.run(fetched, check=True)
    assert len(GitRefs(there.path / "refs.git").history(f"refs/proposals/{name}")) == 2
    state = SqliteState(there.state)
    operations = Operations(there, state, Incidents(state, now))
    assert Proposals(operations).merge(name, actor="cem")["state"] == "merged"
    assert Together(operations).check("signs@2", "production")["passed"]
    operations.labels.close()
    state.close()
