import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer._crypto_signer import CryptoSigner

from bundles import signing
from bundles.content import Kind
from bundles.policy import Demands, Policy, PolicyKey, Reproduced, Role, Subject, Verdict, judge
from bundles.provenance import PREDICATE_TYPE
from bundles.statements import TEST_RESULT, VERDICT, approval, read_statements, result_of_test

DIGEST, BASE, OTHER = (f"sha256:{digit * 64}" for digit in "123")
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SIGNERS = {name: CryptoSigner.generate_ed25519() for name in ("ana", "ben", "cem", "eve")}
ROLES: dict[str, frozenset[Role]] = {
    "ana": frozenset({"trainer", "approver"}),
    "ben": frozenset({"tester", "reproducer", "approver"}),
    "cem": frozenset({"tester", "approver"}),
}
Said = tuple[str, str, Mapping[str, Any]]
TRAINED: Said = ("ana", PREDICATE_TYPE, {})


def policy(demands: Demands, **expires: date) -> Policy:
    """Three people, of whom ana alone may bring in code; what `demands` says is asked of production."""
    executes: frozenset[Kind] = frozenset({"code"})
    keys = (
        PolicyKey(name, SIGNERS[name].public_key, roles, executes if name == "ana" else frozenset(), expires.get(name))
        for name, roles in ROLES.items()
    )
    return Policy(tuple(keys), {"production": demands}, "policy.toml")


def verdict(demands: Demands, *said: Said, environment: str = "production", **expires: date) -> Verdict:
    """Judge a bundle with code about which this was said, really signed, in the place of BASE."""
    asked = policy(demands, **expires)
    envelopes = [signing.sign(DIGEST, "signs", kind, dict(words), SIGNERS[name]) for name, kind, words in said]
    statements = read_statements(envelopes, DIGEST, asked.public_keys())
    subject = Subject(DIGEST, "signs@2", frozenset({"code"}))
    return judge(asked, statements, subject, environment=environment, base=BASE, now=NOW)


def by_tester(name: str, *, passed: bool = True, minute: int = 0) -> Said:
    """A tester's word."""
    return name, TEST_RESULT, result_of_test(passed=passed, comment="", by=name, time=f"2026-11-25T10:{minute:02}:00Z")


def reproduced(name: str, came_to: str) -> Said:
    """A reproducer's word."""
    words = {"kind": "reproduction", "verdict": came_to, "time": "2026-11-25T10:00:00Z"}
    return name, TEST_RESULT, {"result": "PASSED", "configuration": [], "snowgate": words}


def approved(
    name: str, *, approve: bool = True, base: str | None = BASE, to: str = "production", minute: int = 0
) -> Said:
    """A reviewer's word."""
    time = f"2026-11-25T11:{minute:02}:00Z"
    words = approval(approve=approve, environment=to, base=base, comment="hm", by=name, time=time, keyid="k")
    return name, VERDICT, words


@pytest.mark.parametrize(
    ("demands", "said"),
    [
        (Demands(), ()),
        (Demands(trained=True), ()),
        (Demands(tested=2), (by_tester("ben"), by_tester("cem"))),
        (Demands(tested=1), (by_tester("ben", passed=False), by_tester("ben", minute=1))),
        (Demands(reproduced="equivalent"), (reproduced("ben", "numerically-equal"),)),
        (Demands(approved=2), (approved("ben"), approved("cem"))),
        (Demands(approved=1), (approved("cem", approve=False), approved("cem", minute=1))),
        (Demands(approved=1), (approved("ben"), approved("cem", approve=False, to="staging"))),
        (
            Demands(trained=True, tested=1, reproduced="identical", approved=1),
            (by_tester("cem"), reproduced("ben", "identical"), approved("cem")),
        ),
    ],
)
def test_what_is_asked_for_and_said_passes(demands: Demands, said: tuple[Said, ...]) -> None:
    """Each demand is met by the words that it asks for, and the verdict has nothing to add."""
    found = verdict(demands, TRAINED, *said)
    assert found.passed, str(found)
    assert json.loads(json.dumps(found.to_json()))["passed"] is True


@pytest.mark.parametrize(
    ("demands", "said", "words"),
    [
        (Demands(tested=1), (), "0 of 1 testers signed that it passed; a tester types: snowgate bundle sign signs@2"),
        (
            Demands(tested=2),
            (by_tester("ben"), by_tester("ben", minute=1)),
            "1 of 2 testers signed that it passed (ben)",
        ),
        (Demands(tested=1), (by_tester("ben"), by_tester("cem", passed=False)), "cem says that it failed"),
        (Demands(tested=1), (by_tester("ben"), by_tester("ben", passed=False, minute=1)), "ben says that it failed"),
        (Demands(tested=1), (by_tester("ana"),), "ana is no tester"),
        (Demands(tested=1), (by_tester("eve"),), "0 of 1 testers"),
        (Demands(reproduced="equivalent"), (reproduced("ben", "different"),), "ben: different"),
        (Demands(reproduced="identical"), (reproduced("ben", "numerically-equal"),), "found it identical or better"),
        (Demands(reproduced="equivalent"), (reproduced("ben", "nonsense"),), "snowgate bundle reproduce signs@2"),
        (Demands(approved=1), (approved("ana"),), "ana trained it, and can't approve it"),
        (Demands(approved=1), (approved("ben", base=OTHER),), "ben approved it in the place of sha256:333333333333"),
        (Demands(approved=1), (approved("ben", base=None),), "in the place of nothing: stale"),
        (Demands(approved=1), (approved("ben", to="staging"),), "0 of 1 approvers"),
        (Demands(approved=1), (approved("ben"), approved("cem", approve=False)), "cem rejected it: hm"),
        (Demands(approved=1), (approved("ben"), approved("ben", approve=False, minute=1)), "ben rejected it: hm"),
        (Demands(approved=2), (approved("ben"), approved("ben", minute=1)), "1 of 2 approvers"),
    ],
)
def test_what_is_missing_is_said_with_what_to_type(demands: Demands, said: tuple[Said, ...], words: str) -> None:
    """Each way of missing a demand is refused, in words that name who said what, and what would help."""
    found = verdict(demands, TRAINED, *said)
    assert not found.passed
    assert words in str(found)
    assert all(one.todo for one in found.requirements if not one.met)


def test_provenance_by_somebody_else_is_not_trained() -> None:
    """Who is no trainer trains nothing, and code that such a key signed does not run."""
    found = verdict(Demands(trained=True), ("ben", PREDICATE_TYPE, {}))
    assert [one.name for one in found.requirements if not one.met] == ["trust", "trained"]
    assert "ben may not bring in code" in str(found)
    assert "ben is no trainer" in str(found)


def test_an_expired_key_counts_until_its_last_day() -> None:
    """On the day that the policy names a key counts, on the next it does not, whatever it says about the time."""
    said = (TRAINED, by_tester("ben"))
    assert verdict(Demands(tested=1), *said, ben=date(2026, 11, 25)).passed
    found = verdict(Demands(tested=1), *said, ben=date(2026, 11, 24))
    assert "ben's key expired on 2026-11-24, and counts no more" in str(found)
    assert not verdict(Demands(), TRAINED, ana=date(2026, 11, 24)).passed


def test_an_environment_that_the_policy_does_not_name_lets_nothing_in() -> None:
    """A misspelt environment is not an open one."""
    found = verdict(Demands(), TRAINED, environment="prodcution")
    assert "policy.toml knows production; write [environments.prodcution] into it" in str(found)


def test_a_pickle_needs_a_signer_who_may() -> None:
    """Whom the policy lets bring in code may not bring in a pickle, until it says so."""
    asked = policy(Demands())
    statements = read_statements(
        [signing.sign(DIGEST, "signs", PREDICATE_TYPE, {}, SIGNERS["ana"])], DIGEST, asked.public_keys()
    )
    subject = Subject(DIGEST, "signs@2", frozenset({"code", "pickle"}))
    found = judge(asked, statements, subject, environment="production", base=None, now=NOW)
    assert "ana may not bring in pickle" in str(found)
    assert "with executes = ['code', 'pickle']" in str(found)


def test_a_policys_digest_is_of_what_it_says() -> None:
    """The same policy has the same digest, another demand or date another one."""
    assert policy(Demands(tested=1)).digest == policy(Demands(tested=1)).digest
    others = [policy(Demands(tested=2)), policy(Demands(tested=1), ben=date(2027, 1, 1))]
    assert len({policy(Demands(tested=1)).digest, *(one.digest for one in others)}) == 3


@given(
    said=st.lists(
        st.sampled_from([by_tester("ben"), by_tester("cem"), approved("ben"), approved("cem"), approved("ana")]),
        max_size=8,
    ),
    needed=st.integers(1, 2),
    least=st.sampled_from([None, "equivalent"]),
)
def test_more_of_the_same_changes_nothing(said: list[Said], needed: int, least: Reproduced | None) -> None:
    """Keys are counted: words said twice, and their order, make no difference to whether a bundle passes."""
    demands = Demands(tested=needed, approved=needed, reproduced=least)
    once = list({(name, kind): (name, kind, words) for name, kind, words in said}.values())
    assert verdict(demands, TRAINED, *said).passed == verdict(demands, TRAINED, *reversed(once)).passed


def test_reading_a_policy_needs_no_files_of_its_own(tmp_path: Path) -> None:
    """A statement about another bundle is nobody's word about this one."""
    envelope = signing.sign(OTHER, "signs", PREDICATE_TYPE, {}, SIGNERS["ana"])
    found = read_statements([envelope], DIGEST, policy(Demands()).public_keys())
    assert [(one.keyid, one.kind) for one in found] == [(None, "other")]
    assert "about another bundle" in found[0].problem
