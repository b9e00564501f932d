"""Who is ready, and why not: what health checks over HTTP and gRPC are answered from."""

from gateway.predict import Predictor
from gateway.table import Model, Served, can_answer


def why_not_ready(predictor: Predictor) -> str | None:
    """Say why calls should go to another worker; None when this one is ready."""
    if predictor.draining:
        return "draining"
    if not predictor.table.ready:
        return "no model is loaded, or a stable version's runner is starting"
    if any(_needs_log(predictor, one) for model in predictor.table.models.values() for one in model.versions.values()):
        return _log_fails(predictor)
    return None


def why_version_not_ready(predictor: Predictor, served: Served) -> str | None:
    """Say why a version can't answer here; None when it can."""
    if not served.queue.connected:
        return "its runner is starting again"
    return _log_fails(predictor) if _needs_log(predictor, served) else None


def can_serve(predictor: Predictor, model: Model) -> bool:
    """Whether calls of a model are answered here."""
    if predictor.draining or not can_answer(model):
        return False
    return not any(_needs_log(predictor, one) for one in model.versions.values())


def _needs_log(predictor: Predictor, served: Served) -> bool:
    """Whether the log can't be written, and nothing of this version is answered without it."""
    return predictor.log_failing is not None and not served.serves_unlogged


def _log_fails(predictor: Predictor) -> str:
    return f"the prediction log can't be written ({predictor.log_failing})"
