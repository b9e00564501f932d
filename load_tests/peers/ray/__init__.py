"""Ray Serve: a deployment for each model, batched."""

from pathlib import Path

from load_tests.comparison.server import Peer, Place


class RayServe(Peer):
    """A whole Ray cluster of one machine, without its dashboard."""

    name = "ray"
    requirements = ("ray[serve]==2.60.*", "numpy")
    versions = ("ray", "uvicorn", "torch")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"@serve.batch 64 rows or 2 ms, {cores} replica(s) a model, num_cpus=2, no dashboard, no access log"

    def commands(self, place: Place) -> list[list[str]]:
        """Run the application beside this file."""
        script = str(Path(__file__).with_name("server.py"))
        return [[str(place.python), script, str(place.ports[0]), str(place.cores)]]

    def variables(self, place: Place) -> dict[str, str]:
        """Send nothing home, and make no token in the user's home folder: only loopback is listened on."""
        return {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
