"""Models of other tools: what lies in a BentoML store or an MLflow folder becomes a bundle, and the other way round.

    found = bentoml.find("signs:latest", Path("~/bentoml").expanduser())     # or mlflow.find(folder)
    adopted = adopt(home, found, recipe=Path("recipe"), model="signs", allow_code=False)

Their files are read as files: none of the tools is imported, because both run what a model brings when they load it.
What they say about a model (who, when, with what) is declared, and stands in the provenance as `origin`.
"""

from bundles.adapters.adopting import adopt
from bundles.adapters.found import Found

__all__ = ["Found", "adopt"]
