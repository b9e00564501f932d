"""Triton with its Python backend, from the wheel of nvidia-pytriton: the strongest peer on a CPU.

The wheel holds the server and that one backend. It is started directly, not by PyTriton's API, which is slower. Its
stub is linked to Debian's libpython 3.11, so the environment is made from Debian's interpreter, and the stub finds the
wheel's libraries by LD_LIBRARY_PATH; it ignores PYTHONPATH, so `model.py` extends its path by itself.
"""

import os
import shutil
from pathlib import Path

from load_tests.comparison.environment import SHARED_TORCH
from load_tests.comparison.server import Peer, Place

CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 64
input [ {{ name: "input" data_type: TYPE_FP32 dims: [ {dims} ] }} ]
output [ {{ name: "logits" data_type: TYPE_FP32 dims: [ {classes} ] }} ]
instance_group [ {{ count: {instances} kind: KIND_CPU }} ]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""
STUB = "triton_python_backend_stub"
MODELS = {"mlp": ("30", 2), "cnn": ("3, 32, 32", 10)}


class Triton(Peer):
    """Dynamic batching without a delay; an instance a core; gRPC and metrics off."""

    name = "triton"
    requirements = ("nvidia-pytriton==0.7.0", "numpy<2")
    versions = ("nvidia-pytriton", "numpy", "torch")
    interpreter = "/usr/bin/python3.11"
    bodies = ("json", "binary")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        batching = "dynamic_batching { max_queue_delay_microseconds: 0 }, max_batch_size 64"
        return f"tritonserver 2.51, Python backend, {batching}, {cores} instance(s), gRPC and metrics off"

    def variables(self, place: Place) -> dict[str, str]:
        """Let the server and its stub find the wheel's libraries, and `model.py` the environment's packages."""
        packages = _packages(place)
        shared = (packages / SHARED_TORCH).read_text().split()
        return {
            "COMPARISON_PACKAGES": os.pathsep.join([str(packages), *shared]),
            "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        }

    def commands(self, place: Place) -> list[list[str]]:
        """Write a model repository and a folder with the Python backend, and start the server on them."""
        server = _packages(place) / "pytriton" / "tritonserver"
        backends = place.folder / "backends"
        shutil.copytree(server / "backends" / "python", backends / "python")
        shutil.copy(server / "python_backend_stubs" / "3.11" / STUB, backends / "python" / STUB)
        repository = place.folder / "repository"
        for name, (dims, classes) in MODELS.items():
            version = repository / name / "1"
            version.mkdir(parents=True)
            shutil.copy(Path(__file__).with_name("model.py"), version)
            text = CONFIG.format(name=name, dims=dims, classes=classes, instances=place.cores)
            (repository / name / "config.pbtxt").write_text(text)
        options = f"--http-address 127.0.0.1 --http-port {place.ports[0]} --allow-grpc false --allow-metrics false"
        folders = [f"--model-repository={repository}", f"--backend-directory={backends}"]
        return [[str(server / "bin" / "tritonserver"), *folders, *options.split()]]


def _packages(place: Place) -> Path:
    return place.python.parent.parent / "lib" / "python3.11" / "site-packages"
