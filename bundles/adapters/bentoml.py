"""BentoML's model store: `STORE/models/NAME/VERSION/`, with a `model.yaml`, and a file `latest` beside the versions.

It is read and written as files, without BentoML: that imports the module that a model's `model.yaml` names, and
unpickles its `custom_objects.pkl`; it copies in place, so that others see half a model; and it tells its maker of every
save. A model that we write is whole before it has its name.

Source: BentoML 1.4.39, `bentoml/_internal/models/model.py` and `store.py`.
"""

import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rfc8785 import dumps as canonical

from bundles.adapters.found import Found, files_of, read_yaml, renamed
from bundles.bundle import MODEL_PREFIX, PROVENANCE, Bundle
from bundles.errors import AdapterError

DESCRIPTION = "model.yaml"
LATEST = "latest"
VERSION_BYTES_MAX = 256
LABEL = "bundle"
"""The label that names the bundle: `sha256-` and its digest, because a label has no colon."""
NAME = re.compile(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?")
KEPT = ("labels", "metadata", "context", "creation_time", "module", "signatures", "options")


def default_store() -> Path:
    """Return where BentoML keeps models here."""
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml").absolute()


def find(tag: str, store: Path) -> Found:
    """Return a model of a store, by `NAME:VERSION`, or `NAME` for the latest.

    Raises:
        AdapterError: it is not there, or its description is not one.
    """
    name, _colon, version = tag.partition(":")
    models = store / "models"
    _check(tag, name)
    if version in ("", LATEST):
        version = _latest(models / name, tag)
    _check(tag, version)
    folder = models / name / version
    if not (folder / DESCRIPTION).is_file():
        known = sorted(path.parent.name for path in (models / name).glob(f"*/{DESCRIPTION}"))
        raise AdapterError(f"{tag}: not in {store}; versions of {name}: {', '.join(known) or 'none'}")
    described = read_yaml(folder / DESCRIPTION)
    labels = described.get("labels")
    label = str(labels.get(LABEL, "")) if isinstance(labels, dict) else ""
    return Found(
        uri=f"bentoml:{name}:{version}",
        files=renamed(_own_files(folder), {DESCRIPTION: "bentoml/model.yaml"}),
        facts={key: _plain(described[key]) for key in KEPT if described.get(key)},
        bundle=label.replace("sha256-", "sha256:", 1) if label.startswith("sha256-") else None,
    )


def hand(bundle: Bundle, tag: str, store: Path) -> Path:
    """Write a bundle's model into a store, with its manifest and provenance; return the folder.

    Raises:
        AdapterError: the tag is not one, or is taken.
        CorruptBundle: a byte of the bundle is wrong.
    """
    name, _colon, version = tag.partition(":")
    for part in (name, version):
        _check(tag, part)
    if version == LATEST:
        raise AdapterError(f"{tag}: 'latest' is the name of BentoML's pointer; give another version")
    target = store / "models" / name / version
    (store / "tmp").mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store / "tmp") as temporary:
        folder = Path(temporary) / version
        _write(bundle, folder, name, version)
        try:
            folder.rename(target)
        except OSError as error:
            raise AdapterError(f"{tag}: can't become {target}: {error.strerror}; give another version") from error
        pointer = Path(temporary) / LATEST
        pointer.write_text(version)
        pointer.replace(target.parent / LATEST)
    return target


def _write(bundle: Bundle, folder: Path, name: str, version: str) -> None:
    files = bundle.manifest.files()
    for path, descriptor in files.items():
        if path.startswith(MODEL_PREFIX):
            target = folder / path.removeprefix(MODEL_PREFIX)
            target.parent.mkdir(parents=True, exist_ok=True)
            bundle.store.copy(descriptor, target)
    if (folder / DESCRIPTION).exists() or (folder / "bundle").exists():
        raise AdapterError(
            f"{bundle.digest}: has a file {DESCRIPTION} or bundle of its own, which BentoML's would hide"
        )
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "manifest.json").write_bytes(bundle.manifest.to_bytes())
    (folder / "bundle" / PROVENANCE).write_bytes(bundle.file(PROVENANCE))
    description = {
        "name": name,
        "version": version,
        "module": "",
        "labels": {LABEL: bundle.digest.replace(":", "-")},
        "options": {},
        "metadata": {"model": bundle.model, "loader": bundle.config["loader"], "metrics": bundle.config["metrics"]},
        "context": {
            "framework_name": "",
            "framework_versions": {},
            "bentoml_version": "1.4.39",
            "python_version": bundle.config["environment"]["python"],
        },
        "signatures": {},
        "api_version": "v1",
        "creation_time": datetime.now(UTC).isoformat(),
    }
    # JSON is YAML: a document that needs no library to be written.
    (folder / DESCRIPTION).write_bytes(orjson.dumps(description, option=orjson.OPT_INDENT_2))


def _own_files(folder: Path) -> dict[str, Path]:
    """Return the model's files; what a bundle was handed over with belongs to that bundle, not to the next."""
    files = files_of(folder)
    own = ("bundle/manifest.json", f"bundle/{PROVENANCE}")
    return {path: file for path, file in files.items() if path not in own}


def _latest(folder: Path, tag: str) -> str:
    try:
        return (folder / LATEST).read_bytes()[:VERSION_BYTES_MAX].decode().strip()
    except (OSError, UnicodeDecodeError):
        raise AdapterError(f"{tag}: no such model in {folder.parent}; `bentoml models list` shows what is") from None


def _check(tag: str, part: str) -> None:
    if not NAME.fullmatch(part):
        raise AdapterError(f"{tag!r}: {part!r}, expected NAME:VERSION, each of small letters, digits, '.', '_' and '-'")


def _plain(value: Any) -> Any:
    """Return it as it can stand in a manifest's canonical JSON; YAML knows dates and more."""
    text = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    plain = orjson.loads(text)
    try:
        canonical(plain)
    except ValueError:
        return text.decode()
    return plain
