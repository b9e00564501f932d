"""KServe's Python SDK: the server that runs inside its containers."""

from pathlib import Path

from load_tests.comparison.server import Peer, Place


class KServe(Peer):
    """Its ModelServer with JSON and binary tensors; it batches nothing by itself."""

    name = "kserve"
    requirements = ("kserve==0.21.*", "numpy")
    versions = ("kserve", "fastapi", "uvicorn", "uvloop", "torch")
    bodies = ("json", "binary")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"ModelServer, workers={cores}, no gRPC, access and latency logs off"

    def commands(self, place: Place) -> list[list[str]]:
        """Run the server beside this file."""
        script = str(Path(__file__).with_name("server.py"))
        options = f"--http_port {place.ports[0]} --workers {place.cores} --enable_grpc false"
        return [[str(place.python), script, *options.split(), "--enable_latency_logging", "false"]]
