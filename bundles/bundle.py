"""A bundle as it is read: its configuration, its files, and the facts that they hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from bundles.baseline import Baseline
from bundles.content import Kind, executable
from bundles.errors import CorruptBundle, RecipeError
from bundles.manifest import Manifest
from bundles.runner import golden
from bundles.schema import TensorSpec, is_batched
from bundles.store import BundleStore

Array = np.ndarray[Any, Any]
MODEL_PREFIX = "model/"
DATA_PREFIX = "data/"
GOLDEN_PREFIX = "golden/"
BASELINE = "baseline.json"
RUN = "run/run.json"
RUN_LOG = "run/log.txt"
PROVENANCE = "provenance.json"
LOCK = "env/pylock.toml"
SERVING_LOCK = "env/serving/pylock.toml"
SOURCE = "code/source.tar"
FLOOR = "eval/floor.json"


@dataclass(frozen=True)
class Bundle:
    """One bundle of a store."""

    digest: str
    config: dict[str, Any]
    manifest: Manifest
    store: BundleStore

    @property
    def model(self) -> str:
        """The model that it is a version of."""
        return str(self.config["model"])

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The declared inputs."""
        return tuple(TensorSpec(**spec) for spec in self.config["inputs"])

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The declared outputs."""
        return tuple(TensorSpec(**spec) for spec in self.config["outputs"])

    @property
    def batched(self) -> bool:
        """Whether the model takes several rows a call."""
        return is_batched(self.inputs)

    @property
    def executable(self) -> dict[Kind, list[str]]:
        """What of it is executed when it is loaded, as we see it; `{}` when it is data alone."""
        files = self.manifest.files()
        model = [path for path in files if path.startswith(MODEL_PREFIX)]
        return executable(self.config, model, own_environment=SERVING_LOCK in files)

    @property
    def serving_lock(self) -> str | None:
        """The lock of the environment that it was packed in and is served in, when that is one of its own."""
        return self.file(SERVING_LOCK).decode() if SERVING_LOCK in self.manifest.files() else None

    def file(self, path: str) -> bytes:
        """Return a file's bytes, checked. Raises CorruptBundle."""
        descriptor = self.manifest.files().get(path)
        if descriptor is None:
            raise CorruptBundle(path, f"is not in bundle {self.digest}")
        return self.store.read(descriptor)

    def baseline(self) -> Baseline:
        """Return the expected distributions of the signals."""
        return Baseline.from_json(orjson.loads(self.file(BASELINE)))

    def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the golden inputs and the outputs recorded for them, rows first."""
        text = self.file(golden.TEXT) if golden.TEXT in self.manifest.files() else b""
        return golden.parse(self.file(golden.INPUTS), self.file(golden.OUTPUTS), text)

    def run(self) -> dict[str, Any]:
        """Return the facts of the training run; `{}` for a folder that was packed without one."""
        found: dict[str, Any] = orjson.loads(self.file(RUN)) if RUN in self.manifest.files() else {}
        return found

    def provenance(self) -> dict[str, Any]:
        """Return the SLSA predicate."""
        found: dict[str, Any] = orjson.loads(self.file(PROVENANCE))
        return found


def open_bundle(store: BundleStore, digest: str) -> Bundle:
    """Open a bundle: manifest and configuration are read and checked, files when they are asked for.

    Raises:
        UnknownReference: it is not in the store.
        CorruptBundle: naming the file that is wrong.
    """
    return assemble(store, digest, store.manifest(digest))


def assemble(store: BundleStore, digest: str, manifest: Manifest) -> Bundle:
    """Return the bundle of a manifest whose configuration is in the store. Raises CorruptBundle."""
    data = store.read(manifest.config)
    try:
        bundle = Bundle(digest, orjson.loads(data), manifest, store)
        _check(bundle)
    except (orjson.JSONDecodeError, KeyError, TypeError, RecipeError) as error:
        problem = f"is not a bundle's configuration ({type(error).__name__}: {error}; {manifest.config.digest})"
        raise CorruptBundle("config.json", problem) from error
    return bundle


def _check(bundle: Bundle) -> None:
    """See that what everybody relies on is there: one from elsewhere may hold anything. Raises KeyError and more."""
    names = [spec.name for spec in (*bundle.inputs, *bundle.outputs)]
    if not all(isinstance(name, str) for name in (*names, bundle.config["model"], bundle.config["loader"])):
        msg = "names must be text"
        raise TypeError(msg)
    weights = bundle.config.get("weights")
    if weights is not None and f"{MODEL_PREFIX}{weights}" not in bundle.manifest.files():
        msg = f"weights {weights!r} is none of its files"
        raise TypeError(msg)
    most = bundle.config.get("max_batch_size", 1)
    if type(most) is not int or most < 1:
        msg = f"max_batch_size {most!r}, expected a whole number above 0"
        raise TypeError(msg)


def describe(bundle: Bundle, version: str | None, refs: list[str], signatures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all that `snowgate bundle show` prints."""
    run, config, baseline = bundle.run(), bundle.config, bundle.baseline()
    inputs, _outputs = bundle.golden()
    return {
        "digest": bundle.digest,
        "model": bundle.model,
        "version": version,
        "refs": refs,
        "created": config["created"],
        "authors": config["authors"],
        "size_bytes": bundle.manifest.size(),
        "loader": config["loader"],
        "entrypoint": config["entrypoint"],
        "weights": config["weights"],
        "executable": bundle.executable,
        "inputs": config["inputs"],
        "outputs": config["outputs"],
        "max_batch_size": config["max_batch_size"],
        "parameters": run.get("parameters", {}) | config.get("parameters", {}),
        "metrics": config["metrics"],
        "parents": config["parents"],
        "command": run.get("command"),
        "seeds": run.get("seeds", {}),
        "code": run.get("code"),
        "data": run.get("data", []),
        "declared_files": _declared(bundle.provenance()),
        "environment": config["environment"],
        "hardware": run.get("hardware"),
        "baseline": {"source": baseline.source, "rows": baseline.rows, "signals": sorted(baseline.signals)},
        "golden": {"rows": len(next(iter(inputs.values()))), "tolerance": config["tolerance"]},
        "signatures": signatures,
        "files": [
            {"path": path, "digest": one.digest, "size": one.size} for path, one in bundle.manifest.files().items()
        ],
    }


def _declared(provenance: dict[str, Any]) -> list[str]:
    """Name the files of the model that no recorded run made."""
    resources = provenance["buildDefinition"]["resolvedDependencies"]
    return [one["name"] for one in resources if one["name"].startswith(MODEL_PREFIX)]
