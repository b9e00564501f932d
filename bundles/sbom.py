"""The bill of materials: a bundle as a CycloneDX document, for the tools that read those.

The model is the subject, with its files; its packages, those it was trained with and those it is served with, and its
data are components. The same bundle gives the same document.

Source: CycloneDX 1.6, JSON.
"""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from bundles.bundle import LOCK, SERVING_LOCK, Bundle

Json = dict[str, Any]


def sbom(bundle: Bundle, version: str | None) -> Json:
    """Return the document. Raises CorruptBundle."""
    data = [_dataset(one) for one in bundle.run().get("data", [])]
    packages = {one["bom-ref"]: one for path in (LOCK, SERVING_LOCK) for one in _packages(bundle, path)}
    model = {
        "type": "machine-learning-model",
        "bom-ref": bundle.digest,
        "name": bundle.model,
        "version": version or bundle.digest,
        "hashes": [_sha256(bundle.digest)],
        "authors": [{"name": one} for one in bundle.config["authors"]],
        "modelCard": _card(bundle, data),
        "components": [
            {"type": "file", "bom-ref": f"file:{path}", "name": path, "hashes": [_sha256(one.digest)]}
            for path, one in sorted(bundle.manifest.files().items())
        ],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'{bundle.digest} {version}')}",
        "version": 1,
        "metadata": {"timestamp": bundle.config["created"], "component": model},
        "components": [*(packages[name] for name in sorted(packages)), *data],
        "dependencies": [{"ref": bundle.digest, "dependsOn": sorted({*packages, *(one["bom-ref"] for one in data)})}],
    }


def _card(bundle: Bundle, data: Iterable[Mapping[str, Any]]) -> Json:
    return {
        "modelParameters": {
            "datasets": [{"ref": one["bom-ref"]} for one in data],
            "inputs": [{"format": f"{one['datatype']} {one['shape']}"} for one in bundle.config["inputs"]],
            "outputs": [{"format": f"{one['datatype']} {one['shape']}"} for one in bundle.config["outputs"]],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": str(value)} for name, value in sorted(bundle.config["metrics"].items())
            ]
        },
    }


def _packages(bundle: Bundle, path: str) -> Iterable[Json]:
    if path not in bundle.manifest.files():
        return
    for one in tomllib.loads(bundle.file(path).decode()).get("packages", []):
        reference = f"pkg:pypi/{one['name']}@{one['version']}"
        wheels = sorted({wheel["hashes"]["sha256"] for wheel in one.get("wheels", []) if "sha256" in wheel["hashes"]})
        yield {
            "type": "library",
            "bom-ref": reference,
            "name": one["name"],
            "version": one["version"],
            "purl": reference,
        } | ({"hashes": [_sha256(wheels[0])]} if len(wheels) == 1 else {})


def _dataset(entry: Mapping[str, Any]) -> Json:
    return {
        "type": "data",
        "bom-ref": f"data:{entry['name']}",
        "name": entry["name"],
        "hashes": [_sha256(entry["sha256"])],
        "data": [{"type": "dataset", "name": entry["name"]}],
        "properties": [{"name": f"snowgate:{name}", "value": str(entry[name])} for name in ("authority", "size")],
    }


def _sha256(digest: str) -> Json:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}
