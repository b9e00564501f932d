"""What a human's decision about an incident brings about."""

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
