"""The model repository extension, on control's side: which models there are, and load and unload through `Operations`.

What shall be served stands in git: the environment's refs. So a load is a deployment of the model's newest version
(`model@main`) and an unload a withdrawal, each with its commit and its entry in the audit log, as if somebody had typed
`snowgate deploy`; control then moves there as always. What the extension adds is that the caller waits until it is so.

Both change production, so they are off unless `[server] repository_api` is on; looking (`index`) always works.

Source: Triton's `extension_model_repository.md`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bundles.errors import BundleError
from bundles.refs import check_name
from gateway.operations import OperationError, Operations

ACTOR = "repository API"
REASON = "asked for through the model repository API"
LOAD_SECONDS = 120.0
"""How long a caller waits; loading goes on behind it. A torch model of 1 GB takes ten seconds from a cold disk."""
POLL_SECONDS = 0.05


class Repository:
    """Answers for one environment. `followed` waits until every worker has the newest table."""

    def __init__(
        self, operations: Operations, environment: str, *, changes: bool, followed: Callable[[], Awaitable[None]]
    ) -> None:
        self._operations = operations
        self._environment = environment
        self._changes = changes
        self._followed = followed
        # Of several who load a model at once, the first deploys it and the others find it deployed.
        self._turn = asyncio.Lock()

    async def index(self) -> list[dict[str, str]]:
        """Return every model's versions that are desired, routed or rejected here, or else its newest one.

        The rows have name, version, state and reason, and no READY: whether a loaded version answers the workers know.
        """
        return await asyncio.to_thread(self._index)

    async def load(self, model: str) -> None:
        """Serve a model, and wait until every worker does; nothing changes when one is deployed already.

        Raises:
            OperationError: switched off (403), a bad name or a version that can't be served (400), unknown (404), or
                not there yet after `LOAD_SECONDS` (503).
        """
        self._check(model, "load")
        async with self._turn:
            await asyncio.to_thread(self._desire, model)
        deployment = await self._settled(model, "load")
        if deployment["phase"] not in ("Healthy", "Paused"):
            raise OperationError(f"failed to load '{model}', {deployment['message']}", 400)
        await self._followed()

    async def unload(self, model: str) -> None:
        """Serve a model no more, and wait until no worker does; calls that are in flight are answered.

        Raises:
            OperationError: switched off (403), a bad name or a ref that somebody else moved (400), unknown (404).
        """
        self._check(model, "unload")
        async with self._turn:
            withdrawn = await asyncio.to_thread(self._withdraw, model)
        if withdrawn:
            await self._settled(model, "unload")
            await self._followed()

    def _check(self, model: str, verb: str) -> None:
        if not self._changes:
            raise OperationError(
                f"This API is restricted: {verb} changes what is served here; set [server] repository_api = true to "
                "allow it, or use `snowgate deploy`",
                403,
            )
        try:
            check_name("model", model)
        except BundleError as error:
            raise OperationError(f"failed to {verb} '{model[:64]}', {error}", 400) from error

    def _deployment(self, model: str) -> dict[str, Any] | None:
        """Return the deployment of a model that is, or was, deployed here."""
        try:
            return self._operations.deployment(model, self._environment)
        except OperationError as error:
            if error.status != 404:
                raise
            return None

    def _desire(self, model: str) -> None:
        """Deploy the newest version, unless one is deployed."""
        deployment = self._deployment(model)
        if deployment is None or deployment["desired"] is None:
            try:
                self._operations.deploy(f"{model}@main", self._environment, actor=ACTOR, reason=REASON)
            except OperationError as error:
                raise _failed("load", model, error) from error

    def _withdraw(self, model: str) -> bool:
        """Withdraw the deployment; return whether there was one."""
        deployment = self._deployment(model)
        if deployment is None or deployment["desired"] is None:
            if deployment is None and self._operations.refs.get(f"refs/heads/{model}/main") is None:
                raise OperationError(f"failed to unload '{model}', no model of this name is in the store", 404)
            return False
        try:
            self._operations.withdraw(model, self._environment, actor=ACTOR, reason=REASON)
        except OperationError as error:
            raise _failed("unload", model, error) from error
        return True

    async def _settled(self, model: str, verb: str) -> dict[str, Any]:
        """Wait until control has gone as far as it can with a model."""
        deadline = asyncio.get_running_loop().time() + LOAD_SECONDS
        while True:
            deployment = await asyncio.to_thread(self._operations.deployment, model, self._environment)
            if deployment["settled"]:
                return deployment
            if asyncio.get_running_loop().time() > deadline:
                sentence = f"{verb} of '{model}' is not done after {LOAD_SECONDS:.0f} s and goes on"
                raise OperationError(f"{sentence}: {deployment['message']}", 503)
            await asyncio.sleep(POLL_SECONDS)

    def _index(self) -> list[dict[str, str]]:
        refs = self._operations.refs
        newest = {ref.name.split("/")[2]: ref for ref in refs.list("refs/heads/") if ref.name.endswith("/main")}
        here = {ref.name.split("/")[3] for ref in refs.list(f"refs/environments/{self._environment}/")}
        rows = []
        for model in sorted(newest.keys() | here):
            found = _rows(self._deployment(model))
            if not found and model in newest and newest[model].digest is not None:
                digest = str(newest[model].digest)
                found = {refs.version_of(digest, model) or digest[7:19]: ("UNAVAILABLE", "not deployed")}
            rows += [
                {"name": model, "version": version, "state": state, "reason": reason}
                for version, (state, reason) in found.items()
            ]
        return rows


def _rows(deployment: Mapping[str, Any] | None) -> dict[str, tuple[str, str]]:
    """Return state and reason of a deployment's versions; a later word about one replaces an earlier."""
    if deployment is None:
        return {}
    rows: dict[str, tuple[str, str]] = {}
    actual, desired = deployment["actual"], deployment["desired"]
    for one in [] if actual is None else actual["variants"]:
        rows[one["version"]] = ("LOADING", "its runner is starting")
    if desired is not None and desired["version"] not in rows:
        state = "LOADING" if deployment["phase"] == "Progressing" else "UNAVAILABLE"
        rows[desired["version"]] = (state, deployment["message"])
    for one in deployment["rejected"]:
        rows[one["version"]] = ("UNAVAILABLE", f"rejected by {one['actor']}: {one['reason']}")
    return rows


def _failed(verb: str, model: str, error: OperationError) -> OperationError:
    """The extension knows 400 for what can't be done and 404 for what nobody knows."""
    return OperationError(f"failed to {verb} '{model}', {error}", 404 if error.status == 404 else 400)
