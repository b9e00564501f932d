"""Provenance as a SLSA v1 predicate: how this bundle came to be, in the field's own words.

The build type `https://snowgate.dev/train/v1` is described in docs/provenance.md. Every fact says on whose authority
it stands: `observed` by the recorder, or `declared` by the person who packed. What nobody recorded is not there.

Source: SLSA provenance v1.0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://snowgate.dev/train/v1"
DATA_FACTS = ("size", "rows", "columns", "role", "authority", "declared", "changed_during_run")
PACK_TYPE = "https://snowgate.dev/pack/v1"
ADOPT_TYPE = "https://snowgate.dev/adopt/v1"


def predicate(
    run: Mapping[str, Any],
    *,
    files: Mapping[str, str],
    lock_digest: str,
    parents: Sequence[str],
    author: str,
    created: str,
    builder: str,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the predicate for a recorded run, or for a folder packed without one (`run` empty).

    `files` are the digests of those packed files, by path, that no recorded run made; `origin` is the `uri` of a model
    of another tool, and the `facts` that it states.
    """
    seen = set((run.get("authority") or {}).get("observed", ["environment"]))
    dependencies: list[dict[str, Any]] = []
    code = run.get("code")
    if code is not None:
        digest = {name: code[key] for name, key in (("gitTree", "tree"), ("gitCommit", "commit")) if code.get(key)}
        facts = {"dirty": code.get("dirty"), "archive_sha256": code.get("archive"), "authority": "observed"}
        dependencies.append(_resource("source", digest, facts, code.get("remote")))
    for one in run.get("data", []):
        facts = {key: one.get(key) for key in DATA_FACTS}
        dependencies.append(_resource(f"data/{one['name']}", _sha256(one["sha256"]), facts, one.get("path")))
    authority = "observed" if "environment" in seen else "declared"
    dependencies.append(_resource("env/pylock.toml", _sha256(lock_digest), {"authority": authority}))
    dependencies += [_resource(path, _sha256(digest), {"authority": "declared"}) for path, digest in files.items()]
    dependencies += [_resource(f"parent/{parent}", _sha256(parent), {"authority": "declared"}) for parent in parents]
    if origin is not None:
        dependencies.append(_resource("origin", {}, {"authority": "declared", "facts": origin["facts"]}, origin["uri"]))
    external = {
        "argv": run.get("command", []),
        "parameters": run.get("parameters", {}),
        "seeds": run.get("seeds", {}),
    }
    return {
        "buildDefinition": {
            "buildType": _build_type(run, origin),
            "externalParameters": external if run else {},
            "internalParameters": {
                "environment": run.get("environment", {}),
                "hardware": run.get("hardware", {}),
                "author": author,
            },
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": builder},
            "metadata": {
                "invocationId": run.get("id"),
                "startedOn": run.get("started"),
                "finishedOn": run.get("finished", created),
            },
            "byproducts": [_resource("log", _sha256(run["log"]), {})] if run.get("log") else [],
        },
    }


def _build_type(run: Mapping[str, Any], origin: Mapping[str, Any] | None) -> str:
    if origin is not None:
        return ADOPT_TYPE
    return BUILD_TYPE if run else PACK_TYPE


def _resource(name: str, digest: Mapping[str, str], facts: Mapping[str, Any], uri: str | None = None) -> dict[str, Any]:
    resource: dict[str, Any] = {"name": name, "digest": dict(digest)}
    if uri:
        resource["uri"] = uri
    annotations = {key: value for key, value in facts.items() if value is not None}
    return resource | ({"annotations": annotations} if annotations else {})


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": digest.removeprefix("sha256:")}
