"""The same operations on a running gateway, through its control port: for `--server URL`.

The key, when the gateway asks for one, comes from SNOWGATE_API_KEY.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import urllib3

from gateway.audit import rfc3339
from gateway.operations import OperationError
from monitors.log.question import Question

TIMEOUT_SECONDS = 30.0


class RemoteOperations:
    """What `Operations` can do, asked for over HTTP. Raises OperationError with the server's own words."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = urllib3.PoolManager(timeout=TIMEOUT_SECONDS, retries=False)

    def deploy(
        self, reference: str, environment: str, *, canary: int | None, actor: str, reason: str, again: bool
    ) -> Any:
        """See `Operations.deploy`."""
        body = {"reference": reference, "canary": canary, "actor": actor, "reason": reason, "again": again}
        return self._ask("POST", f"environments/{_part(environment)}/deployments", body)

    def withdraw(self, model: str, environment: str, *, actor: str, reason: str) -> Any:
        """See `Operations.withdraw`."""
        path = f"environments/{_part(environment)}/deployments/{_part(model)}/withdraw"
        return self._ask("POST", path, {"actor": actor, "reason": reason})

    def deployment(self, model: str, environment: str) -> Any:
        """See `Operations.deployment`."""
        return self._ask("GET", f"environments/{_part(environment)}/deployments/{_part(model)}")

    def rollout(self, model: str, environment: str) -> Any:
        """See `Operations.rollout`."""
        return self._ask("GET", f"environments/{_part(environment)}/rollouts/{_part(model)}")

    def rollouts(self) -> Any:
        """See `Operations.rollouts`."""
        return self._ask("GET", "rollouts")

    def promote(self, model: str, environment: str, *, actor: str, reason: str) -> Any:
        """See `Operations.promote`."""
        path = f"environments/{_part(environment)}/rollouts/{_part(model)}/promote"
        return self._ask("POST", path, {"actor": actor, "reason": reason})

    def abort(self, model: str, environment: str, *, actor: str, reason: str) -> Any:
        """See `Operations.abort`."""
        path = f"environments/{_part(environment)}/rollouts/{_part(model)}/abort"
        return self._ask("POST", path, {"actor": actor, "reason": reason})

    def scale(self, model: str, environment: str, replicas: int | None, *, actor: str, reason: str) -> Any:
        """See `Operations.scale`."""
        path = f"environments/{_part(environment)}/rollouts/{_part(model)}/scale"
        return self._ask("POST", path, {"replicas": replicas, "actor": actor, "reason": reason})

    def prediction(self, id: str, *, chain_wanted: bool = False) -> Any:
        """See `Operations.prediction`."""
        return self._ask("GET", f"predictions/{_part(id)}?chain={'true' if chain_wanted else 'false'}")

    def predictions(self, question: Question) -> Any:
        """See `Operations.predictions`."""
        given: dict[str, Any] = {"model": question.model, "where": question.where, "limit": question.limit}
        given["since"] = rfc3339(question.since)
        if question.until is not None:
            given["until"] = rfc3339(question.until)
        words = urlencode({name: value for name, value in given.items() if value is not None})
        return self._ask("GET", f"predictions?{words}")

    def label(self, labels: Sequence[Mapping[str, Any]], *, actor: str) -> Any:
        """See `Operations.label`."""
        return self._ask("POST", "labels", [{"source": actor, **one} for one in labels])

    def incidents(self, model: str | None = None) -> Any:
        """See `Operations.incidents`."""
        return self._ask("GET", "incidents" + (f"?model={_part(model)}" if model else ""))

    def incident(self, id: str) -> Any:
        """See `Operations.incident`."""
        return self._ask("GET", f"incidents/{_part(id)}")

    def acknowledge(self, id: str, *, actor: str, reason: str) -> Any:
        """See `Operations.acknowledge`."""
        return self._ask("POST", f"incidents/{_part(id)}/acknowledge", {"actor": actor, "reason": reason})

    def decide(self, id: str, verdict: str, *, actor: str, reason: str) -> Any:
        """See `Operations.decide`."""
        body = {"verdict": verdict, "actor": actor, "reason": reason}
        return self._ask("POST", f"incidents/{_part(id)}/decide", body)

    def bundles(self) -> Any:
        """See `Operations.bundles`."""
        return self._ask("GET", "bundles")

    def bundle(self, reference: str) -> Any:
        """See `Operations.bundle`."""
        return self._ask("GET", f"bundles/{_part(reference)}")

    def forget_engines(self, reference: str, *, actor: str, reason: str = "") -> Any:
        """See `Operations.forget_engines`."""
        path = f"bundles/{_part(reference)}/engines/forget"
        return self._ask("POST", path, {"actor": actor, "reason": reason})

    def monitors(self) -> Any:
        """See `Operations.monitors`."""
        return self._ask("GET", "monitors")

    def _ask(self, method: str, path: str, body: dict[str, Any] | list[Any] | None = None) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        key = os.environ.get("SNOWGATE_API_KEY")
        if key:
            headers["X-API-Key"] = key
        data = None if body is None else orjson.dumps(body)
        try:
            answer = self._http.request(method, f"{self._url}/api/v1/{path}", body=data, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            msg = f"{self._url}: {error}; --server takes a gateway's control port, such as http://127.0.0.1:8082"
            raise OperationError(msg, 503) from error
        try:
            document = orjson.loads(answer.data)
        except orjson.JSONDecodeError:
            document = None
        if answer.status < 400 and document is not None:
            return document
        detail = document.get("detail") if isinstance(document, dict) else None
        if detail is None:
            msg = f"{self._url}: answered {answer.status}, not as a control port does; is --server a control port?"
            raise OperationError(msg, 502)
        raise OperationError(str(detail), answer.status)


def _part(text: str) -> str:
    return quote(text, safe="")
