"""Is what a server answers right? Different rows, several at once, against in-process torch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import urllib3

from load_tests.comparison.models import Model
from load_tests.comparison.server import Server, ServerError

AT_ONCE = 8


def complaint(server: Server, model: Model, body: str) -> str | None:
    """Send every row of a model once; say what is wrong with the answers, or None."""

    def one(row: int) -> str | None:
        try:
            found = server.ask(body, model, slice(row, row + 1))
        except (ServerError, urllib3.exceptions.HTTPError, ValueError, LookupError) as error:
            return f"{type(error).__name__}: {error}"
        expected = model.expected[row : row + 1]
        if found.shape != expected.shape:
            return f"shape {list(found.shape)}, expected {list(expected.shape)}"
        if not np.allclose(found, expected, rtol=model.tolerance, atol=model.tolerance):
            return f"row {row} is off by {np.abs(found - expected).max():.2g}, tolerance {model.tolerance:g}"
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return next((said for said in pool.map(one, range(len(model.rows))) if said), None)
