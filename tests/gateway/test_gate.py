import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import PolicyError
from bundles.home import Home
from bundles.policy_file import inline
from bundles.signing import make_key, read_signer
from bundles.statements import read_statements
from gateway.audit import now
from gateway.gate import MOVED_BACK, Gate, replaced, utc
from gateway.operations import Operations
from gateway.together import Together
from monitors.incidents import Incidents
from state.sqlite import SqliteState

POLICY = """
[keys.home]
key = "{home}"
executes = ["code"]

[keys.ben]
key = "{ben}"
roles = ["tester"]
expires = {expires}

[environments.production]
tested = 1
"""
TODAY = datetime.now(UTC).date()


@pytest.fixture(name="work")
def _work(packed_home: Path, tmp_path: Path) -> Iterator[Operations]:
    """A home in which signs@1 serves, and ben has a key."""
    home = Home(Path(shutil.copytree(packed_home, tmp_path / "home")))
    state = SqliteState(home.state)
    operations = Operations(home, state, Incidents(state, now))
    operations.deploy("signs@1", "production", actor="ada")
    make_key(tmp_path / "ben.pem")
    yield operations
    operations.labels.close()
    state.close()


def write_policy(work: Operations, days: int = 10, more: str = "") -> None:
    """Ask for a test by ben, whose key counts for so many days more."""
    ben = inline(read_signer(work.home.path.parent / "ben.pem").public_key)
    home = inline(work.home.keys().signer().public_key)
    text = POLICY.format(home=home, ben=ben, expires=TODAY + timedelta(days=days))
    (work.home.path / "policy.toml").write_text(text + more)


def verdicts(work: Operations, digest: str) -> list[dict[str, Any]]:
    """Return the verdicts that are written down, signed, beside a bundle."""
    keys = [work.home.keys().signer().public_key]
    found = read_statements(work.home.store().attestations(digest), digest, keys)
    return [dict(one.said) for one in found if one.kind == "gate"]


def audited(work: Operations) -> list[str]:
    """Return the reasons of the gate's entries in the audit log."""
    return [one.body["reason"] for one in work.state.list("audit/") if one.body["action"] == "gate"]


def by_ben(work: Operations) -> None:
    """Let ben say that signs@2 was tested."""
    signer = read_signer(work.home.path.parent / "ben.pem")
    Together(work).sign("signs@2", "tested", signer, environment="production", comment="", actor="ben")


def test_without_a_policy_nothing_is_asked_or_written(work: Operations) -> None:
    """A home alone lets in what it packed itself, and leaves its bundles as they are."""
    digest = work.resolve("signs@2")[0]
    Gate(work.home, work.state, "production", utc).check(digest)
    assert (verdicts(work, digest), audited(work)) == ([], [])


def test_a_verdict_is_written_down_once(work: Operations) -> None:
    """Refused, then let in: each verdict is signed beside the bundle and audited once, however often it is loaded."""
    write_policy(work)
    gate, digest = Gate(work.home, work.state, "production", utc), work.resolve("signs@2")[0]
    for _time in range(3):
        with pytest.raises(PolicyError, match="a tester types: snowgate bundle sign signs@2 --role tested") as caught:
            gate.check(digest)
    assert "then: snowgate deploy signs@2 --to production" in str(caught.value)
    by_ben(work)
    for _time in range(3):
        gate.check(digest)
    written = verdicts(work, digest)
    assert [one["passed"] for one in written] == [False, True]
    assert {(one["environment"], one["base"]) for one in written} == {("production", work.resolve("signs@1")[0])}
    assert len(audited(work)) == 2


def test_what_passed_stays_in_until_the_policy_says_something_else(work: Operations) -> None:
    """A key that expires puts nothing out that serves; another policy is asked anew; another bundle is asked anew."""
    write_policy(work)
    digest = work.resolve("signs@2")[0]
    by_ben(work)
    Gate(work.home, work.state, "production", utc).check(digest)
    gate = Gate(work.home, work.state, "production", lambda: utc() + timedelta(days=30))
    gate.check(digest)
    with pytest.raises(PolicyError, match="0 of 1 testers"):
        gate.check(work.resolve("signs@1")[0])
    write_policy(work, more="\n[environments.staging]\n")
    with pytest.raises(PolicyError, match="ben's key expired"):
        gate.check(digest)


def test_a_policy_that_can_not_be_read_lets_nothing_in(work: Operations) -> None:
    """A broken file is not an open one."""
    (work.home.path / "policy.toml").write_text("[environments.production]\ntestet = 1\n")
    with pytest.raises(PolicyError, match="testet"):
        Gate(work.home, work.state, "production", utc).check(work.resolve("signs@1")[0])


def test_a_bundle_replaces_what_was_there_when_somebody_chose_it(work: Operations) -> None:
    """The base is what the ref named before, over canaries and repeats; control's way back chooses nothing anew."""
    one, two = (work.resolve(f"signs@{version}")[0] for version in "12")

    def base(digest: str) -> str | None:
        return replaced(work.refs, "production", "signs", digest)

    assert (base(one), base(two)) == (None, one)
    work.deploy("signs@2", "production", canary=5, actor="ada")
    work.deploy("signs@2", "production", actor="ada")
    assert base(two) == one
    ref = work.refs.get("refs/environments/production/signs")
    assert ref is not None
    work.refs.set(ref.name, one, expected=ref.commit, actor="control", reason="back", details={MOVED_BACK: True})
    assert (base(one), base(two)) == (None, one)
    work.deploy("signs@1", "production", actor="ada")
    assert base(one) is None
    work.deploy("signs@2", "production", actor="ada")
    work.deploy("signs@1", "production", actor="ada")
    assert base(one) == two
