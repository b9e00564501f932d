"""FastAPI on uvicorn, by hand: what most people write first."""

from pathlib import Path

from load_tests.comparison.server import Peer, Place


class FastApi(Peer):
    """An async handler with pydantic models in and out; the model runs in it, one request at a time."""

    name = "fastapi"
    requirements = ("fastapi", "uvicorn", "uvloop", "httptools", "numpy")
    versions = ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "torch")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"async handler, pydantic in and out; uvicorn with uvloop and httptools, workers={cores}, no access log"

    def commands(self, place: Place) -> list[list[str]]:
        """Run uvicorn on the application beside this file."""
        words = f"-m uvicorn server:app --host 127.0.0.1 --port {place.ports[0]} --workers {place.cores}"
        options = "--loop uvloop --http httptools --no-access-log --log-level warning"
        return [[str(place.python), *words.split(), *options.split(), "--app-dir", str(Path(__file__).parent)]]
