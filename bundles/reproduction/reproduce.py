"""`snowgate bundle reproduce`, in order: trust, data, environment, run, compare, say."""

import math
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bundles.bundle import SOURCE, Bundle
from bundles.digest import sha256_file
from bundles.errors import CommandFailed, RecipeError, ReproductionError, RunnerFailed
from bundles.home import Home
from bundles.loading import prepare
from bundles.recording import author, who
from bundles.reproduction import floors, rerun, statement, surroundings
from bundles.reproduction.agreement import Agreement, compare
from bundles.reproduction.data import locate
from bundles.reproduction.models import Array, Model, held, of_bundle
from bundles.reproduction.training import Training
from bundles.reproduction.verdict import Floor, Found, cause, verdict
from bundles.reproduction.words import CODE, DATA, DIFFERENT, ENVIRONMENT, EQUAL, IDENTICAL, LOST, SEED
from bundles.wheels import Say


@dataclass(frozen=True, slots=True)
class Changes:
    """What shall be other than it was recorded, to see what becomes of it."""

    packages: Path | None = None
    python: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Path] = field(default_factory=dict)
    source: Path | None = None

    def causes(self, run: Mapping[str, Any]) -> list[str]:
        """Name what is changed. Raises ReproductionError when there is no such data."""
        recorded = {one["name"]: one["sha256"] for one in run["data"]}
        for name, path in self.data.items():
            if name not in recorded:
                known = ", ".join(recorded) or "none"
                raise ReproductionError(f"--data {name}={path}: the run has read {known}")
        other = [name for name, value in self.parameters.items() if run["parameters"].get(name) != value]
        found = [
            (DATA, any(sha256_file(path) != recorded[name] for name, path in self.data.items())),
            (CODE, self.source is not None or any("seed" not in name.lower() for name in other)),
            (SEED, any("seed" in name.lower() for name in other)),
            (ENVIRONMENT, self.packages is not None or self.python is not None),
        ]
        return [name for name, differs in found if differs]


def reproduce(
    home: Home,
    reference: str,
    *,
    changes: Changes,
    floor_seeds: int = 0,
    data_from: str | None = None,
    timeout: float | None = None,
    say: Say = lambda _text: None,
) -> dict[str, Any]:
    """Train a bundle again and return the verdict, which is signed and put beside the bundle.

    Raises:
        UntrustedBundle, CorruptBundle: as when it is loaded; nothing of it has run.
        EnvironmentFailed: its environment can't be built here.
        ReproductionError: no training run was recorded, or it can't be made here.
    """
    began = time.monotonic()
    digest, model, version = home.refs().resolve(reference)
    if floor_seeds:
        floors.check_count(floor_seeds)
    with tempfile.TemporaryDirectory(prefix="snowgate-reproduce-") as folder:
        scratch = Path(folder).resolve()
        bundle = prepare(home.store(), digest, home.policy(), scratch / "first")
        run = bundle.run()
        if not run:
            raise ReproductionError(f"{reference}: was packed from a folder; no training run was recorded to run again")
        changed = changes.causes(run)
        code = changes.source or scratch / "code"
        if changes.source is None:
            bundle.store.copy(bundle.manifest.files()[SOURCE], scratch / "source.tar")
            rerun.unpack(scratch / "source.tar", code)
        say("looking for its data")
        started = code / run["code"]["directory"]
        needed = [one for one in run["data"] if one["name"] not in changes.data]
        data, lost = locate(bundle, needed, started, home.data(), data_from, scratch / "data")
        if lost:
            say(f"lost: {', '.join(one['name'] for one in lost)}")
            result = _lost(bundle, lost)
        else:
            say("building the environment of the run")
            python, facts = surroundings.build(home, bundle, changes.packages, changes.python, say)
            seconds = timeout or rerun.seconds_for(run)
            training = Training(
                run, code, data | dict(changes.data), bundle.model, home.policy().types, python, seconds
            )
            result = _run_and_compare(home, bundle, training, changes, facts, floor_seeds, scratch, say)
    inputs = [one for one in changed if one != ENVIRONMENT]
    result |= {
        "digest": digest,
        "model": model,
        "version": version,
        "kind": statement.REHEARSAL if inputs else statement.REPRODUCTION,
        "changed": changed,
        "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "by": author(who(Path.cwd())),
        "seconds": round(time.monotonic() - began, 1),
    }
    statement.attach(home, digest, bundle.model, result)
    return result


def _run_and_compare(
    home: Home,
    bundle: Bundle,
    training: Training,
    changes: Changes,
    facts: dict[str, Any],
    floor_seeds: int,
    scratch: Path,
    say: Say,
) -> dict[str, Any]:
    """Run, compare, and look for the cause: all of the result that comes of the run itself."""
    run = training.run
    first, rows = of_bundle(bundle, scratch / "first"), held(scratch / "first")[1]
    serving = Path(sys.executable)
    if bundle.serving_lock is not None:
        serving = home.environments().python_for(bundle.serving_lock, say)
    answers: dict[str, Array] = {}

    def ask(model: Model) -> dict[str, Array]:
        return model.answers(rows, serving)

    def seeds() -> Floor:
        return floors.measure(run, first, answers, ask, training, floor_seeds, scratch / "floor", say)

    changed = changes.causes(run)
    say(f"running {' '.join(run['command'])}")
    try:
        second, confined = training.again(changes.parameters, scratch / "second")
        facts["confined"] = confined
        same, count = second.digest == first.digest, len(next(iter(rows.values())))
        agreement = Agreement(1.0, count, 0.0)
        if not same:
            say(f"asking both models about the {count} rows of the holdout")
            answers |= ask(first)
            agreement = compare(first.config["outputs"], answers, ask(second))
    except (CommandFailed, RecipeError, RunnerFailed) as error:
        found = Found(same_bytes=False, agreement=None, before=first.metrics, changed=changed, failed=str(error))
        return _result(found, first, None, facts, run, repeats=True)
    found = Found(same, agreement, first.metrics, second.metrics, floors.of_bundle(bundle), changed)
    if floor_seeds and verdict(found)[0] not in (IDENTICAL, EQUAL):
        found = replace(found, floor=seeds())
    repeats = None
    if verdict(found)[0] == DIFFERENT and not changed:
        say("it differs, and nothing was changed: running it once more, to see whether it repeats itself")
        third, _confined = training.again({}, scratch / "third")
        repeats = third.digest == second.digest
    return _result(found, first, second, facts, run, repeats=repeats)


def _result(
    found: Found,
    first: Model,
    second: Model | None,
    facts: dict[str, Any],
    run: Mapping[str, Any],
    *,
    repeats: bool | None,
) -> dict[str, Any]:
    result, reason = verdict(found)
    circumstances = surroundings.differences(run, facts)
    floor, agreement = found.floor, found.agreement
    share = None if agreement is None else agreement.share
    return {
        "verdict": result,
        "reason": reason,
        "cause": cause(result, found.changed, circumstances, repeats=repeats),
        "agreement": share,
        "floor": None if floor is None else floor.floor,
        "floor_agreements": [] if floor is None else list(floor.agreements),
        "margin": None if floor is None or share is None else share - floor.floor,
        "rows": None if agreement is None else agreement.rows,
        "interval": None if agreement is None else list(agreement.interval()),
        # Where a class or a text differs there is no number for how much.
        "max_difference": agreement.largest if agreement is not None and math.isfinite(agreement.largest) else None,
        "metrics": {"before": dict(found.before), "after": dict(found.after)},
        "environment": facts,
        "lost": [],
        "model_digest": first.digest,
        "reproduced_digest": None if second is None else second.digest,
    }


def _lost(bundle: Bundle, lost: list[dict[str, Any]]) -> dict[str, Any]:
    names = ", ".join(f"{one['name']} ({one['sha256']}, {one['size']} bytes)" for one in lost)
    unknown = ("cause", "agreement", "floor", "margin", "rows", "interval", "max_difference", "reproduced_digest")
    return dict.fromkeys(unknown) | {
        "verdict": LOST,
        "reason": f"nobody here has the bytes of {names}; if another place has them: --data-from PLACE",
        "floor_agreements": [],
        "metrics": {"before": bundle.config["metrics"], "after": {}},
        "environment": bundle.config["environment"],
        "lost": [{name: one.get(name) for name in ("name", "path", "sha256", "size")} for one in lost],
        "model_digest": None,
    }
