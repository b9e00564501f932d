"""Who must have said what before a bundle may serve: a pure function of a policy, statements, the base and the time.

A policy names keys, with the roles in which their words count, and says of each environment what it asks for:

    trained      somebody in the role of a trainer signed the provenance
    tested       so many testers signed that a test passed, and none that one failed
    reproduced   a reproducer's last word is at least this verdict
    approved     so many approvers, none of them the trainer, approved this digest in the place of this base

and of each key which kinds of executable content it may bring in. Keys are counted, not signatures. A key's last word
counts: who rejects after approving has rejected. Every requirement that is not met says what is missing and what to
type. The clock, the files and the statements come from outside: `policy_file.py` reads `policy.toml`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

from securesystemslib.signer._key import SSlibKey

from bundles import content
from bundles.digest import canonical_json, sha256_bytes
from bundles.signing import TRUST_HINT
from bundles.statements import Statement

Role = Literal["trainer", "tester", "reproducer", "approver"]
ROLES: tuple[Role, ...] = get_args(Role)
Reproduced = Literal["equivalent", "numerically-equal", "identical"]
VERDICTS: tuple[str, ...] = ("data-lost", "different", *get_args(Reproduced))
"""What a reproduction may have come to, from the worst to the best."""


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """A key by its name; on the day `expires` its words count for the last time. `executes`: see `content`."""

    name: str
    key: SSlibKey
    roles: frozenset[Role] = frozenset(ROLES)
    executes: frozenset[content.Kind] = frozenset(content.KINDS)
    expires: date | None = None

    def counts(self, now: datetime) -> bool:
        """Say whether its words count at this moment."""
        return self.expires is None or now.astimezone(UTC).date() <= self.expires


@dataclass(frozen=True, slots=True)
class Demands:
    """What one environment asks for."""

    trained: bool = False
    tested: int = 0
    reproduced: Reproduced | None = None
    approved: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """Keys and demands; `environments` None asks for nothing anywhere. `place` is what errors call it."""

    keys: tuple[PolicyKey, ...]
    environments: Mapping[str, Demands] | None = None
    place: str = "this home"
    types: tuple[str, ...] = ()
    """Of which a model in the skops format may be made, beside those that are known to be harmless."""

    @property
    def digest(self) -> str:
        """The digest of what it says, whatever the file looks like."""
        keys = [
            {
                "name": one.name,
                "key": one.key.keyval["public"],
                "roles": sorted(one.roles),
                "executes": sorted(one.executes),
                "expires": None if one.expires is None else one.expires.isoformat(),
            }
            for one in self.keys
        ]
        asked = None if self.environments is None else {name: asdict(one) for name, one in self.environments.items()}
        return sha256_bytes(canonical_json({"keys": keys, "environments": asked, "types": sorted(self.types)}))

    def public_keys(self) -> list[SSlibKey]:
        """Return the keys of all, the expired ones too: what they signed is read, and then said not to count."""
        return [one.key for one in self.keys]

    def named(self, keyid: str | None) -> PolicyKey | None:
        """Return a key by its id."""
        return next((one for one in self.keys if one.key.keyid == keyid), None)


@dataclass(frozen=True, slots=True)
class Subject:
    """The bundle that is judged: `reference` is what people type for it, `executes` the kinds of content it runs."""

    digest: str
    reference: str
    executes: frozenset[content.Kind]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One demand: whether it is met, what was found, and, where it is not met, what to type."""

    name: str
    met: bool
    found: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of a bundle in an environment, in the place of `base`."""

    digest: str
    environment: str
    base: str | None
    policy: str
    requirements: tuple[Requirement, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is met."""
        return all(one.met for one in self.requirements)

    def __str__(self) -> str:
        """Say what is missing, and what to type."""
        missing = [f"{one.name}: {one.found}; {one.todo}" for one in self.requirements if not one.met]
        return "; ".join(missing) or "everything that the policy asks for is there"

    def to_json(self) -> dict[str, Any]:
        """Return what scripts read, and the gateway signs."""
        return asdict(self) | {"passed": self.passed, "requirements": [asdict(one) for one in self.requirements]}


def judge(
    policy: Policy,
    statements: Sequence[Statement],
    subject: Subject,
    *,
    environment: str,
    base: str | None,
    now: datetime,
) -> Verdict:
    """Say whether a bundle may serve in an environment in the place of `base` (None: nothing serves there).

    `statements` are those about the bundle, as `read_statements` opened them with the policy's keys.
    """
    found = [trust(policy, statements, subject, now)]
    demands = Demands() if policy.environments is None else policy.environments.get(environment)
    if demands is None:
        known = ", ".join(sorted(policy.environments or {})) or "none"
        todo = f"write [environments.{environment}] into it; without a line below nothing more is asked"
        found.append(Requirement("environment", met=False, found=f"{policy.place} knows {known}", todo=todo))
    else:
        judging = _Judging(policy, statements, subject, environment, base, now)
        if demands.trained:
            found.append(judging.trained())
        if demands.tested:
            found.append(judging.tested(demands.tested))
        if demands.reproduced is not None:
            found.append(judging.reproduced(demands.reproduced))
        if demands.approved:
            found.append(judging.approved(demands.approved))
    return Verdict(subject.digest, environment, base, policy.digest, tuple(found))


def trust(policy: Policy, statements: Sequence[Statement], subject: Subject, now: datetime) -> Requirement:
    """Say whether what the bundle executes was brought in by a key that may: one that signed its provenance."""
    if not subject.executes:
        return Requirement("trust", met=True, found="nothing in it is executed")
    problems: list[str] = []
    for statement in statements:
        signer = policy.named(statement.keyid)
        if signer is None:
            problem = statement.problem.removeprefix(f"bundle {subject.digest}: ")
            problems.append(problem.removesuffix(TRUST_HINT))
        elif statement.kind == "provenance":
            refused = sorted(subject.executes - signer.executes)
            if not signer.counts(now):
                problems.append(_expired(signer))
            elif refused:
                problems.append(f"{signer.name} may not bring in {', '.join(refused)}")
            else:
                kinds = ", ".join(sorted(subject.executes))
                return Requirement("trust", met=True, found=f"{kinds}, brought in by {signer.name}")
    if not problems:
        problems = ["not signed by anybody who made it, and it brings code"]
        todo = "pack it in this home, or import it signed"
    elif policy.environments is None:
        todo = TRUST_HINT.removeprefix("; ")
    else:
        todo = (
            f"a signer whom you trust goes into {policy.place} under [keys], with executes = {sorted(subject.executes)}"
        )
    return Requirement("trust", met=False, found="; ".join(dict.fromkeys(problems)), todo=todo)


class _Judging:
    """The demands one by one, on the words of those whose keys count."""

    def __init__(
        self,
        policy: Policy,
        statements: Sequence[Statement],
        subject: Subject,
        environment: str,
        base: str | None,
        now: datetime,
    ) -> None:
        self._policy, self._statements, self._subject = policy, statements, subject
        self._environment, self._base, self._now = environment, base, now

    def trained(self) -> Requirement:
        """The provenance, by a trainer."""
        signers, notes = self._last_words("provenance", "trainer")
        todo = f"pack it again where a trainer's key is the home's, or name its signer in {self._policy.place}"
        return _requirement("trained", 1, [key.name for key, _said in signers], notes, "trainers signed it", todo)

    def tested(self, needed: int) -> Requirement:
        """Tests that passed, and none that failed."""
        words, notes = self._last_words("test", "tester")
        good = [key.name for key, said in words if said.predicate.get("result") == "PASSED"]
        bad = [key.name for key, said in words if said.predicate.get("result") != "PASSED"]
        todo = f"a tester types: snowgate bundle sign {self._subject.reference} --role tested"
        notes = [*notes, *(f"{name} says that it failed" for name in bad)]
        return _requirement("tested", needed, good, notes, "testers signed that it passed", todo, blocked=bool(bad))

    def reproduced(self, least: Reproduced) -> Requirement:
        """A second training, near enough."""
        words, notes = self._last_words("reproduction", "reproducer")
        verdicts = {key.name: str(said.said.get("verdict")) for key, said in words}
        wanted = VERDICTS[VERDICTS.index(least) :]
        good = [name for name, verdict in verdicts.items() if verdict in wanted]
        notes = [*notes, *(f"{name}: {verdict}" for name, verdict in verdicts.items() if name not in good)]
        todo = f"a reproducer types: snowgate bundle reproduce {self._subject.reference}"
        return _requirement("reproduced", 1, good, notes, f"reproducers found it {least} or better", todo)

    def approved(self, needed: int) -> Requirement:
        """Reviews of this digest, for this environment, in the place of this base, by others than the trainer."""
        trainers = {one.keyid for one in self._statements if one.kind == "provenance"}
        words, notes = self._last_words("approval", "approver")
        good, rejected = [], False
        for key, statement in words:
            said = statement.said
            if said.get("decision") != "approve":
                notes.append(f"{key.name} rejected it: {said.get('comment') or 'without a comment'}")
                rejected = True
            elif key.key.keyid in trainers:
                notes.append(f"{key.name} trained it, and can't approve it")
            elif said.get("base") != self._base:
                notes.append(f"{key.name} approved it in the place of {_short(said.get('base'))}: stale")
            else:
                good.append(key.name)
        todo = (
            "another approver types: snowgate bundle sign "
            f"{self._subject.reference} --role approved --to {self._environment}"
        )
        what = f"approvers approved it in the place of {_short(self._base)}"
        return _requirement("approved", needed, good, notes, what, todo, blocked=rejected)

    def _last_words(self, kind: str, role: Role) -> tuple[list[tuple[PolicyKey, Statement]], list[str]]:
        """Return the last statement of each key that counts in a role, and notes about those that do not."""
        last: dict[str, Statement] = {}
        for statement in self._statements:
            if statement.kind != kind or statement.keyid is None:
                continue
            if kind == "approval" and statement.said.get("environment") != self._environment:
                continue
            before = last.get(statement.keyid)
            if before is None or before.time <= statement.time:
                last[statement.keyid] = statement
        words, notes = [], []
        for keyid, statement in last.items():
            key = self._policy.named(keyid)
            if key is None:
                continue
            if role not in key.roles:
                notes.append(f"{key.name} is no {role}")
            elif not key.counts(self._now):
                notes.append(_expired(key))
            else:
                words.append((key, statement))
        return words, notes


def _requirement(
    name: str, needed: int, good: Collection[str], notes: Sequence[str], what: str, todo: str, *, blocked: bool = False
) -> Requirement:
    found = f"{len(good)} of {needed} {what}"
    found += f" ({', '.join(good)})" if good else ""
    met = len(good) >= needed and not blocked
    return Requirement(name, met, "; ".join([found, *notes]), "" if met else todo)


def _expired(key: PolicyKey) -> str:
    return f"{key.name}'s key expired on {key.expires}, and counts no more"


def _short(digest: Any) -> str:
    return "nothing" if digest is None else str(digest)[:19]
