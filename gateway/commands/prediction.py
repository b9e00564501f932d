"""`snowgate prediction`."""

from pathlib import Path
from typing import Any

import click

from gateway.commands.bundle import code_words, reproduced_words, signer
from gateway.commands.label import label_
from gateway.commands.options import NounGroup, operations, operator_options
from gateway.commands.prediction_export import export
from gateway.commands.prediction_list import list_
from gateway.commands.replay import replay_
from gateway.output import facts, show, table

TEXT_SHOWN_MAX = 60
"""Characters of one BYTES element in the table: a picture has millions. `-o json` has them all."""


@click.group(cls=NounGroup)
def prediction() -> None:
    """Look up what was answered and why; say what turned out to be true."""


prediction.add_command(export)
prediction.add_command(label_)
prediction.add_command(replay_)


prediction.add_command(list_)


@prediction.command("show")
@operator_options
@click.option("--chain", is_flag=True, help="Walk on to the bundle, the code, the data and the people.")
@click.argument("id_", metavar="ID")
def show_(home: Path, server: str | None, output: str, chain: bool, id_: str) -> None:
    """Show one prediction: what came, what was answered, by which version and why.

    \b
    Example:
      snowgate prediction show 0192f3a4-7c11-7d2e-9f60-3a1b5c8d2e4f --chain
    """
    with operations(home, server) as work:
        found = work.prediction(id_, chain_wanted=chain)
    show(found, output, tell=_tell)


def _tell(one: dict[str, Any]) -> None:
    why = {
        "split": f"its unit's place in the split (probability {one['probability']})",
        "default": "the only version in the route",
        "static": "the client named the version",
    }
    facts(
        [
            ("prediction", one["id"]),
            ("time", one["time"]),
            ("outcome", f"{one['kind']}, status {one['status']}"),
            ("error", one["error"]),
            ("model", one["model"]),
            ("version", f"{one['version']} ({one['variant']})" if one["version"] else None),
            ("because", why.get(one["reason"], one["reason"])),
            ("unit", one["unit"] or _hashed(one)),
            ("bundle", one["bundle"]),
            ("timing", ", ".join(f"{name} {value:.2f} ms" for name, value in one["timings"].items())),
            ("batch", f"{one['batch_size']} rows, engine {one['engine']}" if one["batch_size"] else None),
            ("trace", one["trace_id"]),
            ("span", one["span_id"]),
            ("payload", _kept(one)),
            ("ask again", f"snowgate prediction replay {one['id']}" if one["kind"] == "answered" else None),
        ]
    )
    for side in ("inputs", "model_inputs", "model_outputs", "outputs"):
        label = side[:-1].replace("_", " ")
        for tensor in one[side]:
            click.echo(f"  {label} {tensor['name']}: {tensor['datatype']} {tensor['shape']}  {_brief(tensor)}")
    for name, values in one["signals"].items():
        click.echo(f"  signal {name}: {_numbers(values)}")
    for said in one["labels"]:
        click.echo(f"  {_label_words(said)}")
    if one.get("provenance"):
        _tell_chain(one["provenance"])


def _label_words(said: dict[str, Any]) -> str:
    where = "" if said["row"] is None else f" of row {said['row']}"
    judged = {True: ", the answer was right", False: ", the answer was wrong", None: ""}[said["correct"]]
    loss = "" if said["loss"] is None else f", squared error {said['loss']:.4g}"
    then = "" if said["holds"] else "; no longer: something else was said since"
    return f"{said['name']}{where}: {said['value']} (by {said['source']}, {said['time']}{judged}{loss}{then})"


def _tell_chain(chain: dict[str, Any]) -> None:
    click.echo()
    route, monitors = chain["route"], chain["monitors"]
    rollout = f", rollout {route['rollout']}" if route["rollout"] else ""
    incidents = [f"{one['state']}: {one['summary']} ({one['id']})" for one in monitors["incidents"]]
    if chain["intact"] or "signed" in chain:
        _tell_bundle(chain)
    else:
        facts([("└ bundle", chain["bundle"]["digest"]), ("  bytes", f"NOT INTACT: {chain['problem']}")])
    for one in chain["deployed"]:
        click.echo(f"└ deployed to {one['environment']} by {one['by']} at {one['time']}: {one['reason']}")
    facts(
        [
            ("└ route", f"revision {route['revision']}, as {route['variant']}{rollout}"),
            ("└ monitors then", incidents or "no incident under way"),
            ("  baseline", monitors["baseline"]["source"]),
        ]
    )


def _tell_bundle(chain: dict[str, Any]) -> None:
    trained, environment = chain["trained"], chain["environment"]
    facts(
        [
            ("└ bundle", f"{chain['bundle']['model']}@{chain['bundle']['version']}   {chain['bundle']['digest']}"),
            ("  bytes", "intact: every file has its digest" if chain["intact"] else f"NOT INTACT: {chain['problem']}"),
            ("  weights", [f"{one['path']}   {one['digest']}" for one in chain["weights"]]),
            ("  signed by", [signer(one) for one in chain["signed"]]),
            ("└ trained by" if trained["command"] else "└ packed by", trained["by"]),
            ("  on", trained["host"]),
            ("  when", trained["started"]),
            ("  command", " ".join(trained["command"] or []) or "no training run was recorded"),
            ("└ code", code_words(chain["code"])),
            ("  commit", (chain["code"] or {}).get("commit")),
            ("└ reproduced", reproduced_words(chain["reproduced"]) if chain["reproduced"] else "not yet"),
            ("└ environment", f"Python {environment['python']}, {environment['packages']} packages (env/pylock.toml)"),
        ]
    )
    if chain["data"]:
        columns = [
            ("└ data", lambda row: "  " + row["name"]),
            ("sha256", lambda row: row["sha256"][:19]),
            ("bytes", lambda row: row["size"]),
            ("authority", lambda row: row["authority"]),
            ("now", lambda row: row["bytes"]),
        ]
        table(chain["data"], columns)


def _brief(tensor: dict[str, Any]) -> str:
    """Say a tensor's first values, and how long ones begin.

    >>> _brief({"datatype": "BYTES", "data": ["iVBORw0KGgo" * 1000]})
    'iVBORw0KGgoiVBORw0KGgoiVBORw0KGgoiVBORw0KGgoiVBORw0KGgoiVBOR… (11,000 characters)'
    """
    withheld = tensor.get("withheld")
    if withheld and tensor["data"] is None:
        what = f"gone: its file {tensor['data_ref']} is not there" if withheld == "gone" else withheld
        return f"[{what}]"
    values = tensor.get("data") or []
    if tensor["datatype"] == "BYTES":
        values = [_beginning(one) for one in values]
    return _numbers(values)


def _hashed(one: dict[str, Any]) -> str | None:
    return f"hash {one['unit_hash']}" if one["unit_hash"] else None


def _kept(one: dict[str, Any]) -> str | None:
    """Say what is not there of a payload; nothing when all of it is."""
    said = {"none": "none: these calls were only counted", "erased": "erased (`snowgate log forget`)"}
    if one["payload_state"] == "sampled out":
        return f"sampled out: {one['payload_rate']:.4g} of them are kept"
    if one["redactions"]:
        return f"without {', '.join(one['redactions'])}"
    return said.get(one["payload_state"])


def _beginning(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN_MAX else f"{text[:TEXT_SHOWN_MAX]}… ({len(text):,} characters)"


def _numbers(values: list[Any]) -> str:
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values[:10]]
    return ", ".join(shown) + (f", … ({len(values)} in all)" if len(values) > 10 else "")
