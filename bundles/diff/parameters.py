"""Parameters, seeds, the command, and how the bundle is served: what somebody typed."""

from typing import Any

from bundles.bundle import Bundle
from bundles.diff.values import changes

CONFIGURATION = (
    "loader",
    "entrypoint",
    "max_batch_size",
    "inputs",
    "outputs",
    "preprocess",
    "model_inputs",
    "postprocess",
    "model_outputs",
    "tolerance",
)


def parameters(first: Bundle, second: Bundle) -> dict[str, Any]:
    """Compare what the training run and the model were given.

    A seed is among `seeds` only. `command` is None when both ran the same one, or none.
    """
    given = [_given(bundle) for bundle in (first, second)]
    commands = [bundle.run().get("command") for bundle in (first, second)]
    return {
        "parameters": changes(given[0], given[1]),
        "seeds": changes(*(bundle.run().get("seeds", {}) for bundle in (first, second))),
        "command": None if commands[0] == commands[1] else {"before": commands[0], "after": commands[1]},
        "configuration": changes(
            *({key: bundle.config[key] for key in CONFIGURATION if key in bundle.config} for bundle in (first, second))
        ),
    }


def _given(bundle: Bundle) -> dict[str, Any]:
    run = bundle.run()
    given = run.get("parameters", {}) | bundle.config.get("parameters", {})
    return {name: value for name, value in given.items() if name not in run.get("seeds", {})}
