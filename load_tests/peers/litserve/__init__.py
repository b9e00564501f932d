"""LitServe: an API for each model, batched."""

from pathlib import Path

from load_tests.comparison.server import Peer, Place


class LitServe(Peer):
    """With `fast_queue`, its faster transport between processes."""

    name = "litserve"
    requirements = ("litserve==0.2.19", "numpy")
    versions = ("litserve", "fastapi", "uvicorn", "uvloop", "torch")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"fast_queue, max_batch_size=64, batch_timeout 2 ms, workers_per_device={cores}, no access log"

    def commands(self, place: Place) -> list[list[str]]:
        """Run the server beside this file."""
        script = str(Path(__file__).with_name("server.py"))
        return [[str(place.python), script, str(place.ports[0]), str(place.cores)]]
