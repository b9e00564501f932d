"""TorchServe (archived by its authors in 2025): a model archive for each model, batched."""

import json
import zipfile
from pathlib import Path

import numpy as np

from load_tests.comparison.models import Array
from load_tests.comparison.server import Peer, Place

PROPERTIES = """\
inference_address=http://127.0.0.1:{inference}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc}
grpc_management_port={grpc_management}
model_store={folder}
load_models=mlp.mar,cnn.mar
models={models}
disable_token_authorization=true
disable_system_metrics=true
enable_envvars_config=false
install_py_dep_per_model=false
vmargs=-Dlog4j2.configurationFile=file://{folder}/log4j2.xml
"""
LOGGING = """\
<Configuration status="warn">
  <Appenders><Console name="console"><PatternLayout pattern="%p %c %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""


class TorchServe(Peer):
    """Batching of 64 rows or 2 ms; no access log, no metrics. Needs Java."""

    name = "torchserve"
    # It imports yaml, and says so nowhere.
    requirements = ("torchserve==0.12.*", "numpy", "pyyaml")
    versions = ("torchserve", "torch")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"batchSize 64, maxBatchDelay 2 ms, {cores} worker(s) a model, access log and metrics off"

    def commands(self, place: Place) -> list[list[str]]:
        """Write both archives and the configuration, and start it."""
        models = {}
        for name in ("mlp", "cnn"):
            manifest = {
                "createdOn": "",
                "runtime": "python",
                "model": {"modelName": name, "handler": "handler.py", "modelVersion": "1.0"},
                "archiverVersion": "0.12.0",
            }
            with zipfile.ZipFile(place.folder / f"{name}.mar", "w") as archive:
                archive.write(Path(__file__).with_name("handler.py"), "handler.py")
                archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
            counts = {"minWorkers": place.cores, "maxWorkers": place.cores, "batchSize": 64, "maxBatchDelay": 2}
            version = {"defaultVersion": True, "marName": f"{name}.mar", "responseTimeout": 120, **counts}
            models[name] = {"1.0": version}
        names = ("inference", "management", "metrics", "grpc", "grpc_management")
        ports = dict(zip(names, place.ports, strict=True))
        text = PROPERTIES.format(**ports, folder=place.folder, models=json.dumps(models))
        (place.folder / "config.properties").write_text(text)
        (place.folder / "log4j2.xml").write_text(LOGGING)
        command = f"--start --foreground --ncs --disable-token-auth --ts-config {place.folder}/config.properties"
        return [[str(place.python.with_name("torchserve")), *command.split()]]

    def variables(self, place: Place) -> dict[str, str]:
        """Keep its logs in its folder."""
        return {"LOG_LOCATION": str(place.folder / "logs"), "METRICS_LOCATION": str(place.folder / "logs")}

    def url(self, place: Place, model: str) -> str:
        """Return the address of the model."""
        return f"http://127.0.0.1:{place.ports[0]}/predictions/{model}"

    def answer(self, content: bytes, header_length: int | None) -> Array:
        """Return the one row that was asked for."""
        return np.array([json.loads(content)], dtype=np.float32)
