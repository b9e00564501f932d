"""Is what a server answers right? Different rows, several at once, against in-process torch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import urllib3

from load_tests.comparison.models import Model
from load_tests.comparison.server import Server, ServerError

AT_ONCE = 8


def complaint(server: Server, model: Model, body: str, together: int = 1) -> str | None:
    """Send every row of a model once, so many in a call; say what is wrong with the answers, or None."""

    def call(first: int) -> str | None:
        which = slice(first, first + together)
        try:
            found = server.ask(body, model, which)
        except (ServerError, urllib3.exceptions.HTTPError, ValueError, LookupError) as error:
            return f"{type(error).__name__}: {error}"
        expected = model.expected[which]
        if found.shape != expected.shape:
            return f"shape {list(found.shape)}, expected {list(expected.shape)}"
        if not np.allclose(found, expected, rtol=model.tolerance, atol=model.tolerance):
            return f"row {first} is off by {np.abs(found - expected).max():.2g}, tolerance {model.tolerance:g}"
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(call, range(0, len(model.rows), together)))
    server.answered += said.count(None)
    return next(filter(None, said), None)
