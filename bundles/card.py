"""The model card: what a person reads first, made of the facts that a bundle holds, and of nothing else.

It is not stored, so it can't say anything else than the bundle does. The front matter is that of the Hugging Face Hub
(model card metadata: `base_model`, `datasets`, `model-index`). What is marked *declared* somebody said.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from bundles.bundle import Bundle


def card(bundle: Bundle, version: str | None) -> str:
    """Return the card as Markdown; the same bundle has the same card. Raises CorruptBundle."""
    run, config = bundle.run(), bundle.config
    parts = [_front(bundle, run), f"# {bundle.model}{f' version {version}' if version else ''}", f"`{bundle.digest}`"]
    parts += [
        "## What it takes and answers",
        _tensors("takes", config["inputs"]),
        _tensors("answers", config["outputs"]),
    ]
    parts += ["## How good it is", _metrics(config["metrics"])]
    parts += ["## What it was trained on", _data(run.get("data", []))]
    parts += ["## How it came to be", _lines(_making(bundle, run))]
    parts += [
        "## See for yourself",
        f"    snowgate bundle verify {bundle.digest}\n    snowgate bundle reproduce {bundle.digest}",
    ]
    return "\n\n".join(parts) + "\n"


def _front(bundle: Bundle, run: Mapping[str, Any]) -> str:
    """Return the front matter. Its values are JSON, which YAML includes."""
    metrics = [{"type": name, "value": value} for name, value in bundle.config["metrics"].items()]
    result = {"task": {"type": bundle.config["outputs"][0].get("semantic") or "other"}, "metrics": metrics}
    facts = {
        "library_name": bundle.config["loader"],
        "base_model": bundle.config["parents"],
        "datasets": sorted({one["name"] for one in run.get("data", [])}),
        "model-index": [{"name": bundle.model, "results": [result] if metrics else []}],
    }
    return "\n".join(["---", *(f"{name}: {orjson.dumps(value).decode()}" for name, value in facts.items()), "---"])


def _tensors(verb: str, specs: Iterable[Mapping[str, Any]]) -> str:
    found = []
    for one in specs:
        meaning = f", {one['semantic']}" if one.get("semantic") else ""
        labels = f" of {', '.join(map(_plain, one['labels'][:20]))}" if one.get("labels") else ""
        shape = " × ".join("any" if size == -1 else str(size) for size in one["shape"])
        found.append(f"It {verb} `{_plain(one['name'])}`: {one['datatype']}, {shape}{meaning}{labels}")
    return _lines(found)


def _metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return "No metrics were recorded."
    rows = [f"| {_plain(name)} | {value} |" for name, value in sorted(metrics.items())]
    return "\n".join(["| metric | value |", "| --- | ---: |", *rows])


def _data(entries: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        f"| {_plain(one['name'])} | {one.get('role') or '–'} | {one.get('rows') or '–'} | {one['size']:,} "
        f"| {one['authority']} | `{one['sha256'][:19]}…` |"
        for one in entries
    ]
    if not rows:
        return "No data was recorded."
    return "\n".join(
        ["| file | for | rows | bytes | authority | digest |", "| --- | --- | ---: | ---: | --- | --- |", *rows]
    )


def _making(bundle: Bundle, run: Mapping[str, Any]) -> Iterable[str]:
    config, code = bundle.config, run.get("code") or {}
    yield f"By {', '.join(map(_plain, config['authors']))}, {config['created']}"
    if run:
        yield f"Command: `{_plain(' '.join(run['command']))}`, {run['seconds']} s"
        yield f"Seeds (declared): {_plain(str(run['seeds'] or 'none'))}"
        dirty = ", uncommitted changes" if code.get("dirty") else ""
        yield f"Code: tree `{code.get('tree') or code.get('archive')}`{dirty}"
    else:
        yield "No training run was recorded: all of it is declared by who packed it"
    environment = config["environment"]
    yield f"Environment: Python {environment['python']}, {environment['packages']} packages (env/pylock.toml)"
    for parent in config["parents"]:
        yield f"Made from `{parent}`"


def _lines(found: Iterable[str]) -> str:
    return "\n".join(f"- {one}" for one in found)


def _plain(text: str) -> str:
    r"""Keep words of a bundle's from being taken for Markdown or HTML, or from breaking a table.

    >>> _plain("<b>|a\nb`")
    '&lt;b>\\|a b'
    """
    return " ".join(text.split()).replace("`", "").replace("<", "&lt;").replace("|", "\\|")
