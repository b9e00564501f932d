"""Incidents as an operator meets them: what can be asked of them, and what each verdict brings about."""

from typing import Any, Protocol

VERDICTS = ("model-broken", "world-changed", "data-pipeline", "expected-event", "false-alarm")
EFFECTS = {
    "model-broken": (
        "version {version} of {model} is rejected: control takes it off the route, goes back to the version before "
        "and will not start it again until `snowgate deploy {model}@{version} --again --reason …`"
    ),
    "world-changed": "what was predicted since {onset} becomes the new baseline of version {version}",
    "data-pipeline": "nothing is rolled back and the baseline stays: mend what feeds the model",
    "expected-event": "nothing is rolled back and the baseline stays",
    "false-alarm": "nothing is rolled back and the baseline stays; the detectors start again",
}
"""What each verdict brings about, in the words that the answer to a decision carries."""
RUNNER_EFFECT = (
    "nothing is rolled back; `snowgate deploy {model}@{version} --again --reason …` starts the version's runners again"
)
"""The same of an incident about a runner, but for `model-broken`."""


class Incidents(Protocol):
    """The incidents of one home. Implemented by the monitors; whoever builds `Operations` passes it in."""

    refusal: type[Exception]
    """What `get`, `acknowledge` and `decide` raise, with a sentence that says what to do."""

    def list(self, model: str | None = None) -> list[dict[str, Any]]:
        """Return all incidents, or those of one model, newest first."""
        ...

    def get(self, id: str) -> dict[str, Any]:
        """Return one incident."""
        ...

    def acknowledge(self, id: str, actor: str, reason: str) -> dict[str, Any]:
        """Note who takes care of it, and return the incident."""
        ...

    def decide(self, id: str, verdict: str, actor: str, reason: str) -> dict[str, Any]:
        """Note the human's decision, and return the incident."""
        ...
