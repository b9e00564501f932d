"""The control process: it supervises all others and moves what is to what is desired.

One loop, woken by a change of the refs, of the live state, or of a runner: read what is desired and what is, let
`reconcile.decide` say the next step for each model, write it in one commit, push the new table to the workers. Only
this process writes routes. A runner is ended only after every worker has said that no call of its own is with it.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import orjson
from prometheus_client import Metric

from bundles.errors import RefConflict
from bundles.home import Home
from bundles.refs import Ref
from gateway.answers import Answers, answer
from gateway.audit import audit, now
from gateway.beside import Beside
from gateway.channel import Channel
from gateway.children import Child, always
from gateway.gate import MOVED_BACK
from gateway.log_watch import LogWatch
from gateway.reconcile import Actual, Bundle, Decision, Desired, decide
from gateway.runner import Runner
from gateway.runner_figures import runner_families
from gateway.runners import Outages, Runners
from gateway.settings import Settings
from gateway.totals import Totals
from gateway.worker_settings import worker_settings
from state import Change, Conflict, State

log = logging.getLogger("snowgate.control")

POLL_SECONDS = 0.05
"""How often refs and state are looked at: some system calls and one indexed read, 0.1 % of a core."""
DECIDING = ("routes/", "deployments/", "rejected/", "incidents/", "scale/")
"""The documents that a decision rests on."""
RETRY_SECONDS = 1.0
BESIDE_SECONDS = 10.0
"""How long the processes beside serving have for their last checkpoint."""
ACKNOWLEDGE_SECONDS = 5.0
"""How long a worker may take to apply a table before it is not waited for; it keeps a runner for a call's time more."""


class Control:
    """Everything that one running gateway does beside serving."""

    def __init__(
        self,
        home: Home,
        state: State,
        settings: Settings,
        sockets: Mapping[str, socket.socket],
        outages: Outages,
    ) -> None:
        """`sockets` are those that all workers accept from, by the flags under which they get them."""
        self.home = home
        self.state = state
        self.settings = settings
        self.totals = Totals()
        self._log_watch = LogWatch(settings.log, outages)
        self._outages = outages
        self._sockets = sockets
        self._refs = home.refs()
        self._wake = asyncio.Event()
        self._runners = Runners(home, state, settings, self._wake.set)
        self._workers: dict[str, Child] = {}
        self._channels: dict[str, Channel] = {}
        self._applied: dict[str, int] = {}
        self._holds: dict[str, set[str]] = {}
        self._told = asyncio.Event()
        self._ready: set[str] = set()
        self._table: dict[str, Any] = {"revision": 0, "models": {}, "runners": {}}
        self._beside: list[Child] = []
        self._changes: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answers: Answers = {}
        self.settled = asyncio.Event()

    def start(self, beside: Beside, answers: Answers) -> None:
        """Start the workers, the processes beside them and the loop; `answers` are for what workers ask."""
        self._answers = answers
        for number in range(self.settings.server.workers):
            name = f"w{number}"
            child = self._workers[name] = Child(
                f"worker {name}", self._worker_command(name), on_end=self._worker_ended(name)
            )
            child.start()
        for name, words in beside.items():
            self._beside.append(Child(name, always(words)))
            self._beside[-1].start()
        self._task(self._reconcile_for_ever())

    async def stop(self) -> None:
        """Drain: no new connections, answers for all that was accepted, then what runs beside, then the runners."""
        for listening in self._sockets.values():
            listening.close()
        grace = self.settings.server.drain_seconds + 5
        await asyncio.gather(*(child.stop(grace) for child in self._workers.values()))
        await asyncio.gather(*(child.stop(BESIDE_SECONDS) for child in self._beside))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runners.close()

    @property
    def ready(self) -> bool:
        """Whether every deployment has gone as far as it can, and every worker serves all of it."""
        if len(self._ready) < len(self._workers) or not self.settled.is_set():
            return False
        return all(self._applied.get(name) == self._table["revision"] for name in self._workers)

    def families(self) -> Iterable[Metric]:
        """Return all that the workers have counted, added up, and how the log and the runners are."""
        runners = runner_families(self._runners.figures(self._version))
        return [*self.totals.families(), *self._log_watch.families(), *runners]

    def _worker_command(self, name: str) -> Callable[[], tuple[list[str], list[int]]]:
        settings = worker_settings(self.home, self.settings, name)

        def command() -> tuple[list[str], list[int]]:
            ours, theirs = socket.socketpair()
            self._task(self._talk(name, ours, theirs))
            arguments = {
                "--name": name,
                "--channel": str(theirs.fileno()),
                "--parent": str(os.getpid()),
                "--settings": orjson.dumps(asdict(settings)).decode(),
            }
            inherited = {flag: listening.fileno() for flag, listening in self._sockets.items()}
            words = [word for flag, value in (arguments | inherited).items() for word in (flag, str(value))]
            return [sys.executable, "-m", "gateway.worker", *words], [theirs.fileno(), *inherited.values()]

        return command

    def _worker_ended(self, name: str) -> Callable[[int], None]:
        def ended(_status: int) -> None:
            for known in (self._channels, self._applied, self._holds):
                known.pop(name, None)
            self._ready.discard(name)
            self._told.set()
            self.totals.ended(name)
            self._log_watch.ended(name)

        return ended

    async def _talk(self, name: str, ours: socket.socket, theirs: socket.socket) -> None:
        """Hear what one worker has to say, as long as it lives."""
        channel = await Channel.open(ours)
        theirs.close()
        self._channels[name] = channel
        channel.send({"table": self._table})
        async for message in channel.messages():
            if "applied" in message:
                self._applied[name], self._holds[name] = message["applied"], set(message["holds"])
                self._ready.add(name)
                self._told.set()
            elif "hangs" in message:
                self._runners.hangs(message["hangs"])
            elif "metrics" in message:
                self.totals.update(name, message["metrics"])
                self._log_watch.update(name, message["log"])
            elif "question" in message:
                self._task(answer(channel, message, self._answers))
        channel.close()

    async def _reconcile_for_ever(self) -> None:
        seen: Any = None
        decided: Any = None
        while True:
            pause = POLL_SECONDS
            try:
                found = (self._refs.version(), self.state.version())
                if found != seen or self._wake.is_set():
                    # The monitor writes its status once a second; that is no reason to look at every model again.
                    ground = (found[0], [(one.key, one.revision) for name in DECIDING for one in self.state.list(name)])
                    if ground != decided or self._wake.is_set():
                        self._wake.clear()
                        await self._reconcile()
                    seen, decided = found, ground
            except (Conflict, RefConflict) as error:
                # Somebody else was quicker; what they did is read in the next turn.
                log.info("again: %s", error)
                seen = decided = None
            except Exception:
                # The top of the loop that everything hangs on: a disk that is full for a minute, a state file that is
                # busy, must not end what is being served. What was not done is decided again.
                log.exception("control could not take its next step; it tries again in %.0f s", RETRY_SECONDS)
                seen = decided = None
                pause = RETRY_SECONDS
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def _reconcile(self) -> None:
        """Take the next step for every model, and make the workers follow."""
        environment = self.settings.server.environment
        refs = {ref.name.rpartition("/")[2]: ref for ref in self._refs.list(f"refs/environments/{environment}/")}
        routes = {one.key.partition("/")[2]: one for one in self.state.list("routes/")}
        self._reject_broken(environment)
        rejected = frozenset(one.body["digest"] for one in self.state.list(f"rejected/{environment}/"))
        run: dict[str, int] = {}
        models, phases = {}, []
        for model in sorted(refs.keys() | routes.keys()):
            ref, document = refs.get(model), routes.get(model)
            actual = Actual.parse(document.body if document else None)
            desired = self._desired(model, ref)
            if desired is not None and self._changes.get(model) != desired.change:
                self._changes[model] = desired.change
                self._runners.forget_failures(desired.bundle.digest)
            decision = decide(model, desired, actual, rejected, self._runners.states())
            revision = self._write(model, environment, document, desired, actual, decision)
            self._move_back(ref, decision)
            run |= self._replicas(model, decision)
            phases.append(decision.phase)
            if desired is not None or decision.route.variants():
                models[model] = {"revision": revision, "route": self._route(model, decision)}
        unneeded = self._runners.keep(run)
        self._push(models)
        self._runners.report(self._outages, self._version)
        if unneeded:
            self._task(self._end_when_unused(unneeded, self._table["revision"]))
        if "Progressing" in phases:
            self.settled.clear()
        else:
            self.settled.set()

    def _replicas(self, model: str, decision: Decision) -> dict[str, int]:
        """Say how many runners each version gets: the one that is only kept warm for going back gets one."""
        scale = self.state.get(f"scale/{self.settings.server.environment}/{model}")
        replicas = self.settings.runner_of(model).replicas if scale is None else scale.body["replicas"]
        return {digest: 1 if digest == decision.warm else replicas for digest in decision.run}

    def _desired(self, model: str, ref: Ref | None) -> Desired | None:
        if ref is None or ref.digest is None:
            return None
        version = ref.details.get("version") or self._refs.version_of(ref.digest, model) or ref.digest[7:19]
        return Desired(Bundle(version, ref.digest), ref.details.get("canary"), ref.commit)

    def _reject_broken(self, environment: str) -> None:
        """Take up what people decided: `model-broken` rejects the version's digest in this environment, once."""
        for one in self.state.list("incidents/"):
            decision = one.body.get("decision")
            if one.body["state"] != "decided" or decision is None or decision["verdict"] != "model-broken":
                continue
            if decision.get("effected") is not None:
                continue  # Somebody may since have allowed the version again; the decision is not repeated.
            rejection = {
                "digest": one.body["bundle"],
                "model": one.body["model"],
                "version": one.body["version"],
                "environment": environment,
                "reason": decision["reason"],
                "actor": decision["actor"],
                "incident": one.body["id"],
                "time": now(),
            }
            key = f"rejected/{environment}/{one.body['bundle'].removeprefix('sha256:')}"
            effected = one.body | {"decision": decision | {"effected": now()}}
            self.state.commit(
                Change(key, rejection),
                Change(one.key, effected, one.revision),
                audit(decision["actor"], "reject", one.body["model"], decision["reason"], rejection),
            )

    def _route(self, model: str, decision: Decision) -> dict[str, Any]:
        route = decision.route
        return {
            "model": model,
            "rollout": route.rollout,
            "environment": self.settings.server.environment,
            "variants": route.variants(),
            "previous": [asdict(one) for one in route.previous],
        }

    def _write(
        self, model: str, environment: str, document: Any, desired: Desired | None, actual: Actual, decision: Decision
    ) -> int:
        """Write route and status where they changed, in one commit; return the route's revision."""
        changes = []
        status = {
            "model": model,
            "environment": environment,
            "desired": None
            if desired is None
            else {**asdict(desired.bundle), "canary": desired.canary, "change": desired.change},
            "phase": decision.phase,
            "message": decision.message,
            "weight_set": decision.route.canary_weight,
            "runners": self._runners.status(decision.run, self._version),
        }
        key = f"deployments/{environment}/{model}"
        before = self.state.get(key)
        if before is None or {**before.body, "time": None} != {**status, "time": None}:
            changes.append(Change(key, status | {"time": now()}, 0 if before is None else before.revision))
            log.info("%s: %s: %s", model, decision.phase, decision.message)
        if document is None or decision.route != actual:
            route = self._route(model, decision) | {"reason": decision.message, "time": now()}
            changes.append(Change(f"routes/{model}", route, 0 if document is None else document.revision))
            changes.append(audit("control", "route", model, decision.message, route))
            return self.state.commit(*changes)
        if changes:
            self.state.commit(*changes)
        return int(document.revision)

    def _move_back(self, ref: Ref | None, decision: Decision) -> None:
        """After a rejection the ref must not go on desiring what was rejected."""
        if ref is None or decision.ref_back is None or ref.digest == decision.ref_back.digest:
            return
        model = ref.name.rpartition("/")[2]
        details = {"model": model, "version": decision.ref_back.version, "canary": None, MOVED_BACK: True}
        self._refs.set(
            ref.name,
            decision.ref_back.digest,
            expected=ref.commit,
            actor="control",
            reason=decision.message,
            details=details,
        )

    def _push(self, models: dict[str, Any]) -> None:
        """Send the workers a new table when anything in it differs."""
        runners = self._runners.table(self._version)
        if (models, runners) != (self._table["models"], self._table["runners"]):
            self._table = {"revision": self._table["revision"] + 1, "models": models, "runners": runners}
            for channel in self._channels.values():
                channel.send({"table": self._table})

    def _version(self, model: str, digest: str) -> str:
        return self._refs.version_of(digest, model) or digest[7:19]

    async def _end_when_unused(self, runners: list[Runner], revision: int) -> None:
        """End runners once every worker has a table without them, and no call of its own with them."""
        paths = {one.socket for one in runners}
        seconds = self.settings.server.timeout_seconds + ACKNOWLEDGE_SECONDS
        await self._until_no_worker(lambda name: self._is_behind(name, revision) or self._holds[name] & paths, seconds)
        await self._runners.stop(runners)

    async def followed(self) -> None:
        """Wait until every worker has the newest table, or has had the time to take it."""
        revision = self._table["revision"]
        await self._until_no_worker(lambda name: self._is_behind(name, revision), ACKNOWLEDGE_SECONDS)

    def _is_behind(self, worker: str, revision: int) -> bool:
        return self._applied.get(worker, 0) < revision

    async def _until_no_worker(self, still: Callable[[str], object], seconds: float) -> None:
        """Wait until something is true of no worker any more, `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                while any(still(name) for name in self._channels):
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            late = ", ".join(name for name in self._channels if still(name))
            log.warning("worker %s did not follow table %d within %.0f s", late, self._table["revision"], seconds)

    def _task(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())
