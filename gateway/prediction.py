"""One prediction, told to a human: the record as JSON, and the chain that leads from it to data and people.

The chain only says what was looked at when it was asked for: whether the bundle's bytes are still whole, whether the
training data still lies where it lay and is still the same, and who has signed the bundle with a key that this home
trusts.
"""

from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from bundles import signing
from bundles.bundle import Bundle, describe, open_bundle
from bundles.digest import sha256_file
from bundles.errors import BundleError, CorruptBundle, UntrustedBundle
from bundles.home import Home
from bundles.refs import GitRefs, Ref
from bundles.schema import DATATYPES
from gateway.audit import rfc3339
from gateway.protocol import elements
from monitors.log.listing import rows
from monitors.log.question import QueryRefused, Question
from monitors.log.record import Payload, Record, Tensor

LISTED_SECONDS = 86_400.0
"""How far back predictions are listed when nobody says since when."""
ROWS_MAX = 10_000
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""What an answer with rows may take as a table, of which JSON makes some three times as much."""
REF_HISTORY_MAX = 1_000
"""Moves of one environment's ref that are looked through: years of daily deployments, 0.2 ms each."""


def record_json(record: Record) -> dict[str, Any]:
    """Return a record as `snowgate prediction show` prints it; tensors in the protocol's JSON form, whole."""
    payload = record.payload or Payload()
    return {
        "id": record.id,
        "time": rfc3339(record.time),
        "kind": record.kind,
        "calls": record.calls,
        "endpoint": record.endpoint,
        "model": record.model,
        "version": record.version,
        "bundle": record.bundle,
        "variant": record.variant,
        "unit": payload.unit,
        "unit_hash": None if record.group is None else f"{record.group:014x}",
        "reason": record.reason,
        "probability": record.probability,
        "rollout": record.rollout,
        "route_revision": record.route_revision,
        "status": record.status,
        "rows": record.rows,
        "inputs": [tensor_json(tensor) for tensor in payload.inputs],
        "outputs": [tensor_json(tensor) for tensor in payload.outputs],
        "model_inputs": [tensor_json(tensor) for tensor in payload.model_inputs],
        "model_outputs": [tensor_json(tensor) for tensor in payload.model_outputs],
        "parameters": payload.parameters,
        "signals": {name: _plain(values) for name, values in record.signals.items()},
        "timings": record.timings,
        "batch_size": record.batch_size,
        "engine": record.engine,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "client_id": payload.client_id,
        "request_id": payload.request_id,
        "error": payload.error,
        "error_type": record.error_type,
        "payload_kept": record.payload is not None,
        "payload_state": record.payload_state,
        "payload_rate": record.payload_rate,
        "redactions": record.redactions,
        "writer": record.writer,
        "seq": record.seq,
    }


def rows_json(directory: Path, question: Question) -> list[dict[str, Any]]:
    """Return rows of the inference table. Raises QueryRefused, NotInstalled, LogCorrupt."""
    if not 1 <= question.limit <= ROWS_MAX:
        raise QueryRefused(f"limit {question.limit}: expected 1 to {ROWS_MAX}; `-o parquet` writes more")
    return rows(directory, question, ANSWER_BYTES_MAX)


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor with its elements flat, in row-major order.

    What is not finite is null; bytes that are not UTF-8 are base64, which `parameters` then says. `data_ref` is the
    digest of a large tensor's file. `withheld` says why data is null, or why it is not all that came.
    """
    document: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if tensor.data_ref is not None:
        document["data_ref"] = tensor.data_ref
    if tensor.withheld is not None:
        document["withheld"] = tensor.withheld
        if not tensor.data:
            return document | {"data": None}
    if tensor.datatype == "BYTES":
        raw = elements(tensor.data)
        try:
            return document | {"data": [one.decode() for one in raw]}
        except UnicodeDecodeError:
            return document | {
                "parameters": {"content_encoding": "base64"},
                "data": [b64encode(one).decode() for one in raw],
            }
    array = np.frombuffer(tensor.data, dtype=DATATYPES[tensor.datatype][0])
    if tensor.datatype == "BF16":
        # A bfloat16 is the upper half of a float32.
        array = (array.astype("<u4") << 16).view("<f4")
    return document | {"data": _plain(array.tolist())}


def chain(record: Record, home: Home, refs: GitRefs) -> dict[str, Any] | None:
    """Walk from a record to its bundle, code, data, environment and people; None for one that no bundle answered."""
    if record.bundle is None:
        return None
    deployed = _deployed(record, refs)
    try:
        bundle = open_bundle(home.store(), record.bundle)
    except BundleError as error:
        return {"bundle": {"digest": record.bundle}, "intact": False, "problem": str(error), "deployed": deployed}
    shown = bundle_json(bundle, home, refs)
    run = bundle.run()
    return {
        "bundle": shown,
        **_intact(bundle),
        "code": shown["code"],
        "data": [one | _looked_at(one) for one in shown["data"]],
        "environment": shown["environment"],
        "trained": {
            "by": shown["authors"],
            "host": (run.get("who") or {}).get("host"),
            "started": run.get("started"),
            "finished": run.get("finished"),
            "command": run.get("command"),
        },
        "signed": shown["signatures"],
        "deployed": deployed,
    }


def bundle_json(bundle: Bundle, home: Home, refs: GitRefs) -> dict[str, Any]:
    """Return all that is known of a bundle, as `snowgate bundle show` prints it."""
    names = [ref.name for ref in refs.list("refs/") if ref.digest == bundle.digest]
    version = refs.version_of(bundle.digest, bundle.model)
    return describe(bundle, version, sorted(map(ref_words, names)), _signatures(bundle, home))


def ref_words(name: str) -> str:
    """Write a ref as people type it.

    >>> ref_words("refs/environments/production/signs"), ref_words("refs/tags/signs/7")
    ('signs@production', 'signs@7')
    >>> ref_words("refs/proposals/signs-7f3a9c")
    'proposal signs-7f3a9c'
    """
    _refs, kind, first, *rest = name.split("/")
    if kind == "proposals":
        return f"proposal {first}"
    (second,) = rest
    return f"{second}@{first}" if kind == "environments" else f"{first}@{second}"


def _signatures(bundle: Bundle, home: Home) -> list[dict[str, Any]]:
    trusted = home.policy().public_keys()
    found = []
    for envelope in bundle.store.attestations(bundle.digest):
        key = ", ".join(str(one.get("keyid", "")) for one in envelope.get("signatures", []))
        try:
            key, statement = signing.verify(envelope, bundle.digest, trusted)
        except UntrustedBundle as error:
            found.append({"key": key, "trusted": False, "problem": str(error)})
        else:
            found.append({"key": key, "trusted": True, "predicate": statement["predicateType"]})
    return found


def _intact(bundle: Bundle) -> dict[str, Any]:
    try:
        bundle.store.verify(bundle.digest)
    except CorruptBundle as error:
        return {"intact": False, "problem": str(error)}
    return {"intact": True, "problem": None}


def _looked_at(data: Mapping[str, Any]) -> dict[str, Any]:
    """Say what became of a file of training data: `here`, `altered`, `missing`, or `elsewhere` (no file)."""
    url = urlsplit(data.get("path") or "")
    if url.scheme != "file":
        return {"bytes": "elsewhere"}
    path = Path(unquote(url.path))
    try:
        same = path.stat().st_size == data["size"] and sha256_file(path) == data["sha256"]
    except OSError:
        return {"bytes": "missing"}
    return {"bytes": "here" if same else "altered"}


def _deployed(record: Record, refs: GitRefs) -> list[dict[str, Any]]:
    """Tell who moved an environment's ref to this bundle, newest first."""
    found = []
    for ref in refs.list("refs/environments/"):
        if ref.name.rpartition("/")[2] == record.model:
            history = refs.history(ref.name, REF_HISTORY_MAX)
            found += [_deployment(one, record) for one in history if one.digest == record.bundle]
    return found


def _deployment(ref: Ref, record: Record) -> dict[str, Any]:
    return {
        "environment": ref.name.split("/")[2],
        "by": ref.actor,
        "time": ref.time,
        "reason": ref.reason,
        "canary": ref.details.get("canary"),
        "before_prediction": datetime.fromisoformat(ref.time).timestamp() <= record.time,
    }


def _plain(values: list[Any]) -> list[Any]:
    """Replace what JSON has no number for by null."""
    return [None if isinstance(one, float) and not np.isfinite(one) else one for one in values]
