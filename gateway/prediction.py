"""One prediction, told to a human: the record as JSON, and rows of the inference table."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np

from bundles import signing
from bundles.bundle import Bundle, describe
from bundles.errors import UntrustedBundle
from bundles.home import Home
from bundles.refs import GitRefs
from bundles.reproduction.statement import reproductions
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


def bundle_json(bundle: Bundle, home: Home, refs: GitRefs) -> dict[str, Any]:
    """Return all that is known of a bundle, as `snowgate bundle show` prints it."""
    names = [ref.name for ref in refs.list("refs/") if ref.digest == bundle.digest]
    version = refs.version_of(bundle.digest, bundle.model)
    shown = describe(bundle, version, sorted(map(ref_words, names)), _signatures(bundle, home))
    return shown | {"reproductions": reproductions(bundle.store, bundle.digest, home.keys().trusted())}


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


def _plain(values: list[Any]) -> list[Any]:
    """Replace what JSON has no number for by null."""
    return [None if isinstance(one, float) and not np.isfinite(one) else one for one in values]
