"""The runners that control keeps: of each version so many replicas, checked whole before one of them is started.

A version can be served when at least one of its replicas is ready. A replica that nobody needs any more is given to
the caller, who ends it when no worker has a call with it.
"""

import asyncio
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol

from bundles.bundle import Bundle
from bundles.errors import BundleError
from bundles.home import Home
from bundles.loading import unpack
from bundles.runner.engines import CPU, EAGER
from gateway.engines import Engines
from gateway.gate import Gate, utc
from gateway.reconcile import RunnerState
from gateway.runner import Launch, Runner
from gateway.runner_figures import Replica, Replicas
from gateway.settings import RunnerSettings, Settings
from state import State

log = logging.getLogger("snowgate.control")


class Outages(Protocol):
    """Who is told what people must hear of: a runner given up, a log that can't be written. Monitors implement it."""

    def parked(self, model: str, version: str, bundle: str, reason: str, said: str) -> None:
        """Take note of a runner that died too often: why, and the end of its standard error."""
        ...

    def served(self, bundle: str) -> None:
        """Take note that all runners of a version are up."""
        ...

    def log_fails(self, reason: str) -> None:
        """Take note that the prediction log can't be written. Raises StateError when that can't be written either."""
        ...

    def log_works(self, reason: str) -> None:
        """Take note that it can be written. Raises StateError."""
        ...


class ReplicaSet:
    """The runners of one version."""

    def __init__(self, runners: "Runners", digest: str, directory: Path) -> None:
        self.digest = digest
        self.directory = directory
        self.bundle: Bundle | None = None
        self.wanted = 0
        self.replicas: list[Runner] = []
        self.told: Literal["", "parked", "served"] = ""
        """What people were told of it last."""
        self._runners = runners
        self._launch: Launch | None = None
        self._refusal: str | None = None
        self._doing = ""
        self._task = asyncio.create_task(self._prepare(), name=f"prepare {digest[:19]}")

    async def _prepare(self) -> None:
        """Ask the policy, check the bundle whole, unpack it and see to its environment, then start the replicas."""
        home = self._runners.home
        try:
            await asyncio.to_thread(self._runners.gate.check, self.digest)
            self.bundle = await asyncio.to_thread(
                lambda: unpack(home.store(), self.digest, self.directory, home.policy().types)
            )
            settings = self._runners.settings.runner_of(self.bundle.model)
            python = await asyncio.to_thread(self._python, self.bundle, settings, asyncio.get_running_loop())
            # Before the first start: all replicas then run the bundle alike. The other engines are for processors.
            engine = EAGER
            if set(settings.devices) == {CPU}:
                engine = await self._runners.engines.engine_for(
                    self.bundle, self.directory, settings.engine, python, confined=settings.confine
                )
        except (BundleError, OSError) as error:
            self._refusal = str(error)
            log.error("bundle %s can't be served: %s", self.digest[:19], self._refusal)  # noqa: TRY400 - it says all
        else:
            self._launch = Launch(self.bundle, self.directory, engine, settings, python)
            self.scale(self.wanted)
        self._runners.changed()

    def _python(self, bundle: Bundle, settings: RunnerSettings, loop: asyncio.AbstractEventLoop) -> str:
        """Return the interpreter that runs the bundle; its environment may have to be built first, on this thread."""
        lock = bundle.serving_lock
        if lock is None or settings.environments == "gateway":
            return sys.executable
        name = f"{bundle.model} {bundle.digest[:19]}"

        def say(text: str) -> None:
            log.info("%s: %s", name, text)
            loop.call_soon_threadsafe(self._tell, text)

        return str(self._runners.environments.python_for(lock, say))

    def _tell(self, text: str) -> None:
        self._doing = text
        self._runners.changed()

    def scale(self, count: int) -> list[Runner]:
        """Have so many replicas: start those that are missing, return those that are too many."""
        self.wanted = count
        if self._launch is None or len(self.replicas) == count:
            return []
        self._runners.changed()
        while len(self.replicas) < count:
            number = min({*range(1, count + 1)} - {one.number for one in self.replicas})
            self.replicas.append(Runner(self._launch, number, self._runners.new_folder, self._runners.changed))
        # Those that serve stay, and among them the oldest.
        self.replicas.sort(key=lambda one: (one.state != "ready", one.number))
        kept, too_many = self.replicas[:count], self.replicas[count:]
        self.replicas = kept
        return too_many

    @property
    def ready(self) -> list[Runner]:
        """The replicas that can be reached."""
        return [one for one in self.replicas if one.state == "ready"]

    @property
    def parked(self) -> Runner | None:
        """A replica that died so often that it is not started again."""
        return next((one for one in self.replicas if one.state == "parked"), None)

    @property
    def state(self) -> tuple[RunnerState, str]:
        """Whether the version can be served; what is being done before its start, or the reason why it can't."""
        if self._refusal is not None:
            return "failed", self._refusal
        if self.ready:
            return "ready", ""
        given_up = [one for one in self.replicas if one.state in ("failed", "parked")]
        if given_up and len(given_up) == len(self.replicas):
            return "failed", given_up[0].reason
        return "starting", "" if self._launch else self._doing

    def forget_failures(self) -> None:
        """Drop the replicas that were given up, so that `scale` starts others."""
        self.replicas = [one for one in self.replicas if one.state not in ("failed", "parked")]
        self.told = ""

    def cancel(self) -> None:
        """Start nothing any more."""
        self._task.cancel()


class Runners:
    """All replica sets of a gateway. `changed` is called after every change of a state."""

    def __init__(self, home: Home, state: State, settings: Settings, changed: Callable[[], None]) -> None:
        self.home = home
        self.settings = settings
        self.environments = home.environments()
        self.changed = changed
        self.engines = Engines(state)
        self.gate = Gate(home, state, settings.server.environment, utc)
        self._sets: dict[str, ReplicaSet] = {}
        self._ending: set[Runner] = set()
        # A socket's path is limited to 108 bytes, and a home may lie deep: they have a short folder of their own.
        self._folder = Path(tempfile.mkdtemp(prefix="snowgate-"))
        self._numbers = count(1)
        shutil.rmtree(home.run, ignore_errors=True)

    def new_folder(self) -> Path:
        """Return a path that no runner had before, so that nobody takes one runner for another."""
        return self._folder / str(next(self._numbers))

    def states(self) -> dict[str, tuple[RunnerState, str]]:
        """Return the state of every version that is to run, with the reason of those that failed."""
        return {digest: one.state for digest, one in self._sets.items()}

    def sets(self) -> list[ReplicaSet]:
        """Return all replica sets."""
        return list(self._sets.values())

    def table(self, version_of: Callable[[str, str], str]) -> dict[str, Any]:
        """Return what the workers must know of every version that can be served."""
        return {one.digest: self._entry(one, one.bundle, version_of) for one in self.sets() if one.bundle and one.ready}

    def _entry(self, replicas: ReplicaSet, bundle: Bundle, version_of: Callable[[str, str], str]) -> dict[str, Any]:
        return {
            "sockets": sorted(one.socket for one in replicas.ready),
            "model": bundle.model,
            "version": version_of(bundle.model, bundle.digest),
            "platform": replicas.ready[0].platform,
            "engine": replicas.ready[0].engine,
            "hang_seconds": self.settings.runner_of(bundle.model).hang_seconds,
            "serves_unlogged": self.settings.log_of(bundle.model).on_failure == "serve",
            "max_batch_size": bundle.config["max_batch_size"],
            "inputs": bundle.config["inputs"],
            "outputs": bundle.config["outputs"],
        }

    def forget_failures(self, digest: str) -> None:
        """Let a version be tried again: somebody has deployed it anew."""
        found = self._sets.get(digest)
        if found is not None and found.state[0] == "failed":
            self._sets.pop(digest).cancel()
        elif found is not None:
            found.forget_failures()

    def keep(self, wanted: Mapping[str, int]) -> list[Runner]:
        """Have so many replicas of each version; return those too many, for `stop` when unused."""
        unneeded: list[Runner] = []
        for digest in [digest for digest in self._sets if digest not in wanted]:
            gone = self._sets.pop(digest)
            gone.cancel()
            unneeded += gone.replicas
        for digest, replicas in wanted.items():
            if digest not in self._sets:
                directory = self.home.run / f"{digest.removeprefix('sha256:')[:16]}-{next(self._numbers)}"
                self._sets[digest] = ReplicaSet(self, digest, directory)
            unneeded += self._sets[digest].scale(replicas)
        self._ending.update(unneeded)
        return unneeded

    def status(self, digests: Collection[str], version_of: Callable[[str, str], str]) -> list[dict[str, Any]]:
        """Return what people want to know of the versions that are to run."""
        return [
            {
                "version": version_of(one.bundle.model, one.digest),
                "digest": one.digest,
                "replicas": one.wanted,
                "ready": len(one.ready),
                "devices": [each.device for each in one.replicas],
                "confined": one.ready[0].confined if one.ready else {},
                "reasons": [each.reason for each in one.replicas if each.reason],
            }
            for one in sorted(self.sets(), key=lambda one: one.digest)
            if one.digest in digests and one.bundle is not None
        ]

    def figures(self, version_of: Callable[[str, str], str]) -> list[Replicas]:
        """Return how all runners are."""
        return [
            Replicas(
                one.bundle.model,
                version_of(one.bundle.model, one.digest),
                one.wanted,
                tuple(
                    Replica(
                        number=each.number,
                        state=each.state,
                        engine=each.engine,
                        device=each.device,
                        restarts=each.restarts,
                        memory_bytes=each.memory_bytes,
                        memory_bytes_max=each.launch.settings.memory_bytes,
                    )
                    for each in one.replicas
                ),
            )
            for one in self.sets()
            if one.bundle is not None
        ]

    def report(self, outages: Outages, version_of: Callable[[str, str], str]) -> None:
        """Tell people what they must know, once: that a runner was given up, or that all of a version are up."""
        for one in self.sets():
            if one.bundle is None:
                continue
            if one.parked is not None and one.told != "parked":
                version = version_of(one.bundle.model, one.digest)
                outages.parked(one.bundle.model, version, one.digest, one.parked.reason, one.parked.said)
                one.told = "parked"
            elif len(one.ready) == one.wanted and one.told != "served":
                outages.served(one.digest)
                one.told = "served"

    def hangs(self, socket: str) -> None:
        """Kill the runner behind a socket, because a worker has waited too long for a batch; it is started anew."""
        for runner in [runner for one in self.sets() for runner in one.replicas if runner.socket == socket]:
            runner.kill(f"a batch took longer than {runner.launch.settings.hang_seconds:g} s")

    async def stop(self, runners: list[Runner]) -> None:
        """End runners that nobody uses any more, and remove what was unpacked for them alone."""
        await asyncio.gather(*(runner.stop() for runner in runners))
        self._ending.difference_update(runners)
        used = {one.directory for one in self.sets()} | {one.launch.directory for one in self._ending}
        for directory in [one for one in self.home.run.glob("*") if one not in used]:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def close(self) -> None:
        """End all runners."""
        self.environments.stop()
        await self.stop([*self.keep({}), *self._ending])
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self.home.run, ignore_errors=True)
