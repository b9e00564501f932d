"""What is different between two bundles: code, data, parameters, packages, metrics, and what they predict.

    difference = compare(home, "signs@6", "signs@7")

Everything but the predictions is read from what the bundles carry, without running anything of theirs: no repository,
no history and no network are needed, and no trust. One file a part, each returning JSON, of which
`gateway.diff_page` makes a page.
"""

from collections.abc import Callable
from typing import Any

from bundles.bundle import MODEL_PREFIX, Bundle, open_bundle
from bundles.diff.code import code
from bundles.diff.data import data
from bundles.diff.metrics import metrics
from bundles.diff.packages import packages
from bundles.diff.parameters import parameters
from bundles.diff.predictions import ROWS_MAX, SKIPPED, predictions
from bundles.home import Home
from bundles.manifest import WEIGHT_TYPE


def compare(
    home: Home,
    first: str,
    second: str,
    *,
    predict: bool = True,
    rows_max: int = ROWS_MAX,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Compare two bundles of a home, by their references.

    Without `predict` neither is loaded, and `predictions` says so.

    Raises:
        UnknownReference: one of them is not in this home.
        CorruptBundle: naming the file that is missing or altered.
    """
    store, refs = home.store(), home.refs()
    found = [(reference, *refs.resolve(reference)) for reference in (first, second)]
    before, after = (open_bundle(store, digest) for _reference, digest, _model, _version in found)
    say("comparing code, data, parameters, packages and metrics")
    return {
        "first": _identity(before, found[0][0], found[0][3]),
        "second": _identity(after, found[1][0], found[1][3]),
        "same_weights": _weights(before) == _weights(after),
        "code": code(before, after),
        "data": data(home, before, after),
        "parameters": parameters(before, after),
        "packages": packages(before, after),
        "metrics": metrics(before, after),
        "predictions": predictions(home, before, after, rows_max=rows_max, say=say) if predict else dict(SKIPPED),
    }


def _identity(bundle: Bundle, reference: str, version: str | None) -> dict[str, Any]:
    return {
        "reference": reference,
        "digest": bundle.digest,
        "model": bundle.model,
        "version": version,
        "created": bundle.config["created"],
        "authors": bundle.config["authors"],
        "parents": bundle.config["parents"],
    }


def _weights(bundle: Bundle) -> dict[str, str]:
    """Return the digests of the weights, by path."""
    return {
        path: one.digest
        for path, one in bundle.manifest.files().items()
        if path.startswith(MODEL_PREFIX) and one.media_type == WEIGHT_TYPE
    }
