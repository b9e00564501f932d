"""What an operator can do: JSON in, JSON out, on the files of a home, beside a running gateway or without one.

The command line with `--home`, the admin API and the console all come through here, so that a thing is refused in the
same words everywhere. Nothing here changes a route: a deployment moves the environment's ref by compare-and-swap, an
abort writes a rejection into live state, and control, which alone writes routes, follows both. So every action holds
when no gateway runs, and takes effect when one starts.
"""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from bundles.bundle import open_bundle
from bundles.errors import BundleError, RefConflict, UnknownReference
from bundles.home import Home
from bundles.refs import GitRefs, Ref, check_name
from bundles.reproduction.statement import last, reproductions
from gateway.audit import audit, now
from gateway.chain import chain
from gateway.deployment import deployment_json, rollout_json
from gateway.incidents import EFFECTS, RUNNER_EFFECT, VERDICTS, Incidents
from gateway.labels import LABELS_MAX, Labels
from gateway.overview import overview_json
from gateway.prediction import bundle_json, record_json, ref_words, rows_json
from gateway.settings import REPLICAS_MAX
from gateway.traffic import Traffic
from monitors.log.errors import LogError
from monitors.log.projection import NotInstalled
from monitors.log.question import QueryRefused, Question
from monitors.log.reader import LogReader
from state import Change, State


class OperationError(Exception):
    """Something can't be done; `str(error)` says why and what to type next, `status` is the API's for it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Operations:
    """All that an operator can do with one `home` and its live `state`. Safe for several threads and processes."""

    def __init__(self, home: Home, state: State, incidents: Incidents) -> None:
        self.home = home
        self.state = state
        self._incidents = incidents
        self.labels = Labels(home)
        self._opened: GitRefs | None = None
        self._opening = Lock()

    @property
    def refs(self) -> GitRefs:
        """The home's refs, opened once."""
        with self._opening:
            if self._opened is None:
                self._opened = self.home.refs()
            return self._opened

    def deploy(
        self,
        reference: str,
        environment: str,
        *,
        canary: int | None = None,
        actor: str,
        reason: str = "",
        again: bool = False,
    ) -> dict[str, Any]:
        """Desire a bundle in an environment: for all traffic, or for `canary` percent of it.

        `again` takes back the rejection of a bundle, and then `reason` must say why.

        Raises:
            OperationError: unknown reference (404); rejected, or moved by somebody else (409); a bad value (422).
        """
        _check_canary(canary)
        digest, model, version = self.resolve(reference)
        name = environment_ref(environment, model)
        rejection = self.state.get(rejection_key(environment, digest))
        if rejection is not None and not again:
            body = rejection.body
            raise OperationError(
                f"version {version} of {model} was rejected in {environment} by {body['actor']}: {body['reason']}; "
                f"`snowgate deploy {model}@{version} --to {environment} --again --reason …` allows it again",
                409,
            )
        if again and not reason.strip():
            raise OperationError("--again takes back a rejection and needs --reason: say why it is safe now", 422)
        details = {"environment": environment, "digest": digest, "version": version, "canary": canary, "again": again}
        changes = [audit(actor, "deploy", model, reason, details)]
        if rejection is not None:
            # Before the ref: control would see a desired bundle that is rejected, and move the ref back.
            changes.append(Change(rejection.key, None, rejection.revision))
        before = self.refs.get(name)
        self.state.commit(*changes)
        what = f"deploy version {version}" if canary is None else f"deploy version {version} as canary at {canary} %"
        self._move(name, before, digest, actor, reason or what, {"model": model, "version": version, "canary": canary})
        return self.deployment(model, environment)

    def withdraw(self, model: str, environment: str, *, actor: str, reason: str = "") -> dict[str, Any]:
        """Serve a model no more in an environment; calls that are in flight there are answered.

        Raises:
            OperationError: it is not deployed (404); somebody else moved the ref first (409).
        """
        name = environment_ref(environment, model)
        before = self.refs.get(name)
        if before is None or before.digest is None:
            raise OperationError(f"{model} is not deployed in {environment}: nothing to withdraw", 404)
        details = {"environment": environment, "digest": before.digest, "version": before.details.get("version")}
        self.state.commit(audit(actor, "withdraw", model, reason, details))
        gone = {"model": model, "version": None, "canary": None}
        self._move(name, before, None, actor, reason or f"withdraw version {details['version']}", gone)
        return self.deployment(model, environment)

    def deployment(self, model: str, environment: str) -> dict[str, Any]:
        """Tell what is desired, what is, and in one sentence why they differ. Raises OperationError (404)."""
        ref = self.refs.get(environment_ref(environment, model))
        route = self.state.get(f"routes/{model}")
        if route is not None and route.body["environment"] != environment:
            route = None
        if ref is None and route is None:
            raise OperationError(
                f"{model} is not deployed in {environment}; `snowgate deploy {model}@VERSION --to {environment}`", 404
            )
        status = self.state.get(f"deployments/{environment}/{model}")
        rejected = [one.body for one in self.state.list(f"rejected/{environment}/") if one.body["model"] == model]
        return deployment_json(model, environment, ref, route, status, rejected)

    def rollout(self, model: str, environment: str) -> dict[str, Any]:
        """Tell how far the way to the desired version is. Raises OperationError (404)."""
        return rollout_json(self.deployment(model, environment))

    def rollouts(self) -> list[dict[str, Any]]:
        """Tell the same of every model that is deployed or routed, by its name; see `rollout`."""
        deployed = {ref.name.split("/")[3]: ref.name.split("/")[2] for ref in self.refs.list("refs/environments/")}
        routed = {one.body["model"]: one.body["environment"] for one in self.state.list("routes/")}
        return [self.rollout(model, place) for model, place in sorted((deployed | routed).items())]

    def promote(self, model: str, environment: str, *, actor: str, reason: str = "") -> dict[str, Any]:
        """Give a canary all traffic. Raises OperationError: no canary is running, or the ref moved (409)."""
        deployment, ref = self._running_canary(model, environment, "promote")
        desired = deployment["desired"]
        details = {"environment": environment, "digest": desired["digest"], "version": desired["version"]}
        self.state.commit(audit(actor, "promote", model, reason, details))
        self._move(
            ref.name,
            ref,
            desired["digest"],
            actor,
            reason or f"promote version {desired['version']}",
            {"model": model, "version": desired["version"], "canary": None},
        )
        return self.rollout(model, environment)

    def abort(self, model: str, environment: str, *, actor: str, reason: str) -> dict[str, Any]:
        """Reject a canary's bundle in the environment; control takes it off the route and moves the ref back.

        Raises:
            OperationError: no canary is running, or somebody else was first (409).
        """
        deployment, _ref = self._running_canary(model, environment, "abort")
        desired = deployment["desired"]
        rejection = {
            "digest": desired["digest"],
            "model": model,
            "version": desired["version"],
            "environment": environment,
            "reason": reason,
            "actor": actor,
            "incident": None,
            "time": now(),
        }
        self.state.commit(
            Change(rejection_key(environment, desired["digest"]), rejection),
            audit(actor, "abort", model, reason, rejection),
        )
        effect = (
            f"version {desired['version']} is rejected in {environment}; control gives its share back to the stable "
            "version and moves the ref back"
        )
        return self.rollout(model, environment) | {"effect": effect}

    def scale(
        self, model: str, environment: str, replicas: int | None, *, actor: str, reason: str = ""
    ) -> dict[str, Any]:
        """Have so many runners of each version that has traffic; None goes back to what the settings say.

        Raises:
            OperationError: not deployed (404); a number out of range (422).
        """
        if replicas is not None and not 1 <= replicas <= REPLICAS_MAX:
            raise OperationError(f"replicas {replicas}: expected 1 to {REPLICAS_MAX}", 422)
        self.deployment(model, environment)
        details = {"environment": environment, "replicas": replicas}
        body = None if replicas is None else {"replicas": replicas, "actor": actor, "reason": reason, "time": now()}
        self.state.commit(Change(f"scale/{environment}/{model}", body), audit(actor, "scale", model, reason, details))
        return self.rollout(model, environment)

    def prediction(self, id: str, *, chain_wanted: bool = False) -> dict[str, Any]:
        """Return one prediction, with its `provenance` when the chain is wanted. Raises OperationError (404, 422)."""
        try:
            record = LogReader(self.home.log).find(id)
        except ValueError as error:
            raise OperationError(str(error), 422) from error
        except LogError as error:
            raise OperationError(f"prediction {id}: {error}; `snowgate log verify` says more", 500) from error
        if record is None:
            raise OperationError(
                f"prediction {id}: not in the log of home {self.home.path}; is it another home's (--home)?", 404
            )
        shown = record_json(record) | {"labels": self.labels.of(record.id)}
        return shown | {"provenance": chain(record, self.home, self.refs, self.state)} if chain_wanted else shown

    def predictions(self, question: Question) -> list[dict[str, Any]]:
        """Return rows of the inference table, newest first. Raises OperationError: a bad condition (422) and others."""
        try:
            return rows_json(self.home.log, question)
        except (QueryRefused, NotInstalled) as error:
            raise OperationError(str(error), 422) from error
        except LogError as error:
            raise OperationError(f"{error}; `snowgate log verify` says more", 500) from error

    def label(self, labels: Sequence[Mapping[str, Any]], *, actor: str) -> dict[str, Any]:
        """Say what turned out to be true of predictions; see `Labels.add`. Raises OperationError: too many (422)."""
        if len(labels) > LABELS_MAX:
            raise OperationError(f"{len(labels)} labels: expected at most {LABELS_MAX} a call; send them in parts", 422)
        return self.labels.add(labels, actor)

    def incidents(self, model: str | None = None) -> list[dict[str, Any]]:
        """Return all incidents, or those of one model, newest first."""
        return self._incidents.list(model)

    def incident(self, id: str) -> dict[str, Any]:
        """Return one incident. Raises OperationError (404)."""
        if self.state.get(f"incidents/{id}") is None:
            raise OperationError(f"incident {id[:64]}: unknown; `snowgate incident list` shows all", 404)
        return self._incidents.get(id)

    def acknowledge(self, id: str, *, actor: str, reason: str = "") -> dict[str, Any]:
        """Take care of an incident. Raises OperationError: unknown (404), or past that (409)."""
        self.incident(id)
        try:
            incident = self._incidents.acknowledge(id, actor, reason)
        except self._incidents.refusal as error:
            raise OperationError(str(error), 409) from error
        self.state.commit(audit(actor, "acknowledge", id, reason, {"model": incident["model"]}))
        return incident

    def decide(self, id: str, verdict: str, *, actor: str, reason: str) -> dict[str, Any]:
        """Decide an incident; the answer's `effect` says what comes of it.

        Raises:
            OperationError: unknown (404), already decided (409), an unknown verdict or no reason (422).
        """
        if verdict not in VERDICTS:
            raise OperationError(f"verdict {verdict[:64]!r}: expected one of {', '.join(VERDICTS)}", 422)
        if not reason.strip():
            raise OperationError("a decision needs a reason: --reason, one sentence for those who read it later", 422)
        self.incident(id)
        try:
            incident = self._incidents.decide(id, verdict, actor, reason)
        except self._incidents.refusal as error:
            raise OperationError(str(error), 409) from error
        details = {key: incident[key] for key in ("model", "version", "bundle")} | {"verdict": verdict}
        self.state.commit(audit(actor, "decide", id, reason, details))
        if incident.get("cause") == "runner" and verdict != "model-broken":
            return incident | {"effect": RUNNER_EFFECT.format_map(incident)}
        return incident | {"effect": EFFECTS[verdict].format_map(incident)}

    def bundles(self) -> list[dict[str, Any]]:
        """Return all bundles of the home that have a name, newest first: digest, model, version, refs, created.

        And `reproduced`, the last verdict on training it again; None when nobody whom this home trusts has tried.
        """
        found: dict[str, dict[str, Any]] = {}
        names: dict[str, list[str]] = {}
        for ref in self.refs.list("refs/"):
            if ref.digest is None:
                continue
            names.setdefault(ref.digest, []).append(ref_words(ref.name))
            if ref.name.startswith("refs/tags/"):
                model, version = ref.name.split("/")[2:4]
                created = ref.details.get("created", ref.time)
                found[ref.digest] = {"digest": ref.digest, "model": model, "version": version, "created": created}
        listed = [
            one | {"refs": sorted(names[digest]), "reproduced": self._reproduced(digest)}
            for digest, one in found.items()
        ]
        return sorted(listed, key=lambda one: str(one["created"]), reverse=True)

    def _reproduced(self, digest: str) -> str | None:
        try:
            said = last(reproductions(self.home.store(), digest, self.home.keys().trusted()))
        except BundleError:
            return None  # Its statements can't be read; `bundle show` and `verify` say why.
        return None if said is None else str(said["verdict"])

    def bundle(self, reference: str) -> dict[str, Any]:
        """Return all that is known of one bundle. Raises OperationError (404, 422)."""
        digest, _model, _version = self.resolve(reference)
        try:
            found = bundle_json(open_bundle(self.home.store(), digest), self.home, self.refs)
        except BundleError as error:
            raise OperationError(str(error), 422) from error
        return found | {"engines": [one.body for one in self.state.list(f"engines/{digest}/")]}

    def forget_engines(self, reference: str, *, actor: str, reason: str = "") -> list[dict[str, Any]]:
        """Have a bundle's engines tried again when it is next loaded; return what was known of them until now.

        Raises:
            OperationError: unknown reference (404, 422).
        """
        digest, model, version = self.resolve(reference)
        found = self.state.list(f"engines/{digest}/")
        entry = audit(actor, "forget-engines", model, reason, {"digest": digest, "version": version})
        self.state.commit(*(Change(one.key, None, one.revision) for one in found), entry)
        return [one.body for one in found]

    def monitors(self) -> list[dict[str, Any]]:
        """Return every watched signal of every version: how far its evidence is from its limit."""
        status = self.state.get("monitor/status")
        if status is None:
            return []
        return [
            {"model": stream["model"], "version": stream["version"], "signal": signal["name"]}
            | {key: signal[key] for key in ("tier", "detector", "state", "evidence", "limit")}
            | {"lag_s": status.body["lag_seconds"]}
            for stream in status.body["streams"]
            for signal in stream["signals"]
        ]

    def overview(self, traffic: Traffic | None = None) -> dict[str, Any]:
        """Return all that the console shows; without `traffic`, rates are null."""
        monitor = self.state.get("monitor/status")
        checkpoint = self.state.get("log/checkpoint")
        return overview_json(
            now(),
            self.rollouts(),
            monitor.body if monitor else None,
            self.incidents(),
            traffic,
            checkpoint.body if checkpoint else None,
        )

    def resolve(self, reference: str) -> tuple[str, str, str]:
        """Return digest, model and version. Raises OperationError: unknown (404), without a version (422)."""
        try:
            digest, model, version = self.refs.resolve(reference)
        except UnknownReference as error:
            raise OperationError(str(error), 404) from error
        if version is None:
            raise OperationError(f"{reference}: bundle {digest} has no version of {model}; pack or import it", 422)
        return digest, model, version

    def _running_canary(self, model: str, environment: str, verb: str) -> tuple[dict[str, Any], Ref]:
        deployment = self.deployment(model, environment)
        ref = self.refs.get(environment_ref(environment, model))
        desired = deployment["desired"]
        if ref is None or desired is None or desired["canary"] is None or deployment["phase"] == "Aborted":
            raise OperationError(
                f"{model} has no canary in {environment}: nothing to {verb}; {deployment['message']}", 409
            )
        return deployment, ref

    def _move(
        self, name: str, before: Ref | None, digest: str | None, actor: str, reason: str, details: Mapping[str, Any]
    ) -> None:
        expected = None if before is None else before.commit
        try:
            self.refs.set(name, digest, expected=expected, actor=actor, reason=reason, details=dict(details))
        except RefConflict as error:
            raise OperationError(str(error), 409) from error


def environment_ref(environment: str, model: str) -> str:
    """Return the ref of a model in an environment. Raises OperationError (422)."""
    try:
        return f"refs/environments/{check_name('environment', environment)}/{check_name('model', model)}"
    except BundleError as error:
        raise OperationError(str(error), 422) from error


def rejection_key(environment: str, digest: str) -> str:
    """Return the document that says that a bundle was rejected in an environment."""
    return f"rejected/{environment}/{digest.removeprefix('sha256:')}"


def _check_canary(canary: int | None) -> None:
    if canary is not None and not 1 <= canary <= 99:
        raise OperationError(f"canary {canary} %: expected 1 to 99; leave it out to give the version all traffic", 422)
