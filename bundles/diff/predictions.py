"""Predictions: both models are asked the same rows, the first one's holdout, and their answers compared.

Both are loaded as a gateway would load them: signed by a trusted key, every byte checked, in the environment that the
bundle locks, confined. What may not be loaded here is not compared, with the reason; the rest of the diff needs no
trust, for it runs nothing.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bundles.bundle import MODEL_PREFIX, Bundle
from bundles.diff.answers import Answers, Holdout, ask, read_holdout
from bundles.diff.classes import compare_classes
from bundles.diff.regression import compare_outputs, compare_values
from bundles.errors import BundleError, CorruptBundle
from bundles.home import Home
from bundles.loading import prepare

ROWS_MAX = 10_000
"""A rate of one in a hundred is known to two tenths of it then, and a model of 10 ms a row has answered in 100 s."""
SKIPPED = {"compared": False, "reason": "not asked for"}


def predictions(
    home: Home, first: Bundle, second: Bundle, *, rows_max: int = ROWS_MAX, say: Callable[[str], None]
) -> dict[str, Any]:
    """Ask both models the first one's holdout.

    Returns `compared`, and the `reason` where it is False; else the `holdout` that was asked, and what `classes` or
    `regression` say. Raises CorruptBundle.
    """
    bundles = (first, second)
    try:
        with tempfile.TemporaryDirectory(prefix="snowgate-diff-") as name:
            folders = [Path(name, side) for side in ("first", "second")]
            for bundle, folder in zip(bundles, folders, strict=True):
                prepare(bundle.store, bundle.digest, home.policy(), folder)
            holdout = read_holdout(first, folders[0], rows_max)
            answers = []
            for bundle, folder in zip(bundles, folders, strict=True):
                say(f"asking {bundle.digest[:19]} {holdout.rows} rows")
                answers.append(ask(home, bundle, folder, holdout, say))
    except CorruptBundle:
        raise
    except BundleError as error:
        return SKIPPED | {"reason": str(error)}
    found = _compared(bundles, (answers[0], answers[1]), holdout)
    if found is None:
        return SKIPPED | {"reason": "they have no signal or output in common"}
    return {"compared": True, "reason": None, "holdout": _facts(second, holdout), **found}


def _compared(
    bundles: tuple[Bundle, Bundle], answers: tuple[Answers, Answers], holdout: Holdout
) -> dict[str, Any] | None:
    """Compare by what the outputs mean, as far as both say it: classes, else values, else the outputs themselves."""
    both = [name for name in answers[0].signals if name in answers[1].signals]
    for signal in both:
        if signal == "class" or signal.endswith(".class"):
            return compare_classes(signal, bundles, answers, holdout)
    for signal in both:
        if signal == "value" or signal.endswith(".value"):
            return compare_values(signal, bundles[0], answers, holdout)
    return compare_outputs(bundles, answers)


def _facts(second: Bundle, holdout: Holdout) -> dict[str, Any]:
    """Say which rows were asked, and whether the second model was measured on the same ones."""
    files = second.manifest.files().items()
    shared = any(one.digest == holdout.digest for path, one in files if path.startswith(MODEL_PREFIX))
    return {
        "of": "both" if shared else "first",
        "digest": holdout.digest,
        "rows": holdout.rows,
        "rows_in_file": holdout.rows_in_file,
        "labels": holdout.labels_name,
    }
