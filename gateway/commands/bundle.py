"""`snowgate bundle`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bundles.bundle import open_bundle
from bundles.garbage import collect
from bundles.home import Home
from bundles.loading import check_trust
from bundles.packing import pack as pack_bundle
from gateway.commands.bundle_adopt import adopt
from gateway.commands.bundle_card import card_, sbom_
from gateway.commands.bundle_diff import diff
from gateway.commands.bundle_export import export
from gateway.commands.bundle_fork import fork
from gateway.commands.bundle_hand import hand
from gateway.commands.bundle_import import import_
from gateway.commands.bundle_pull import pull
from gateway.commands.bundle_push import push
from gateway.commands.bundle_reproduce import reproduce_
from gateway.commands.bundle_sign import sign
from gateway.commands.options import (
    NounGroup,
    actor,
    branch_option,
    existing_home,
    home_option,
    operations,
    operator_options,
    output_option,
    policed_home,
    policy_option,
    progress,
    reason_option,
)
from gateway.output import Column, facts, show, table

SHOWN_MAX = 3
"""Reproductions in the table; `-o json` has all."""


@click.group(cls=NounGroup)
def bundle() -> None:
    """Pack, list, show, verify and trust bundles; see how they run here, and clean up after them."""


bundle.add_command(adopt)
bundle.add_command(card_)
bundle.add_command(diff)
bundle.add_command(sbom_)
bundle.add_command(export)
bundle.add_command(hand)
bundle.add_command(import_)
bundle.add_command(pull)
bundle.add_command(push)
bundle.add_command(fork)
bundle.add_command(sign)


@bundle.command()
@home_option
@output_option
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--model", help="Name of the model.  [default: the one in bundle.toml]")
@click.option("--parent", multiple=True, help="A bundle that this one was made from, such as signs@1.")
@branch_option
def pack(
    home: Path, output: str, directory: Path, model: str | None, parent: tuple[str, ...], branch: str | None
) -> None:
    """Pack a folder with a bundle.toml as the next version of a model, and sign it.

    \b
    Examples:
      snowgate bundle pack ./model --model signs
      snowgate bundle pack ./model --model signs --parent signs@1 -o json
    """
    packed = pack_bundle(Home(home), directory, model=model, parents=parent, branch=branch, say=progress)
    result = {"digest": packed.digest, "model": packed.model, "version": packed.version}
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))


@bundle.command("list")
@operator_options
def list_(home: Path, server: str | None, output: str) -> None:
    """List the bundles of a home, newest first.

    \b
    Examples:
      snowgate bundle list
      snowgate bundle list -o json
    """
    with operations(home, server) as work:
        found = work.bundles()
    columns = [
        ("model", lambda one: one["model"]),
        ("version", lambda one: one["version"]),
        ("digest", lambda one: one["digest"][:19]),
        ("refs", lambda one: one["refs"]),
        ("created", lambda one: one["created"][:19].replace("T", " ") + " UTC"),
        ("reproduced", lambda one: one["reproduced"]),
    ]
    show(found, output, columns=columns, name="digest")


@bundle.command("show")
@operator_options
@click.argument("reference")
def show_(home: Path, server: str | None, output: str, reference: str) -> None:
    """Show all that is known of a bundle: signs@7, signs@production, or sha256:…

    \b
    Example:
      snowgate bundle show signs@production
    """
    with operations(home, server) as work:
        found = work.bundle(reference)
    show(found, output, name="digest", tell=_tell)


@bundle.command()
@operator_options
@reason_option
@click.argument("reference")
@click.option("--again", is_flag=True, help="Forget this, so that they are tried again when it is next loaded.")
def engines(home: Path, server: str | None, output: str, reason: str, reference: str, again: bool) -> None:
    """Show how fast each engine ran a torch bundle on this machine, and which one was chosen; have them tried again.

    \b
    Examples:
      snowgate bundle engines signs@7
      snowgate bundle engines signs@7 --again --reason "the machine was busy then"
    """
    with operations(home, server) as work:
        if again:
            found = work.forget_engines(reference, actor=actor(), reason=reason)
            progress("forgotten; they are tried when its runners are next loaded: restart the gateway, or withdraw and")
            progress("deploy it. Runners that are up keep their engine until then. Until now it was:")
        else:
            found = work.bundle(reference)["engines"]
    show(found, output, name="engine", tell=_tell_engines)


bundle.add_command(reproduce_)


def _tell_engines(found: list[dict[str, Any]]) -> None:
    if not found:
        click.echo("(none: not served here yet, no torch bundle, or the settings name its engine)", err=True)
    for one in found:
        machine, chosen = one["hardware"], f"{one['engine']}: {one['reason']}"
        place = f"{machine['processor']}, threads a call: {machine['threads']}, Python {machine['python']}"
        facts([("machine", place), ("packages", machine["packages"]), ("tried", one["time"]), ("chosen", chosen)])
        sizes = list(dict.fromkeys(size for each in one["outcomes"] for size in each.get("microseconds_per_row", {})))
        columns: list[Column] = [("engine", lambda row: row["engine"])]
        columns += [(f"microseconds a row of {size}", _time_of(size)) for size in sizes]
        columns += [("difference", lambda row: row.get("largest_difference")), ("error", lambda row: row.get("error"))]
        table(one["outcomes"], columns)


def _time_of(size: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row.get("microseconds_per_row", {}).get(size)


@bundle.command()
@home_option
@output_option
@policy_option
@click.argument("reference")
def verify(home: Path, output: str, policy_file: Path | None, reference: str) -> None:
    """Check every byte and the signature of a bundle; the path of what is wrong is named.

    \b
    Example:
      snowgate bundle verify signs@7
    """
    opened = policed_home(home, policy_file)
    digest, model, version = opened.refs().resolve(reference)
    store = opened.store()
    store.verify(digest)
    trust = check_trust(store, digest, opened.policy())
    result = {
        "digest": digest,
        "model": model,
        "version": version,
        "intact": True,
        "trust": trust,
        "executable": open_bundle(store, digest).executable,
    }
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))


@bundle.command()
@home_option
@output_option
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def gc(home: Path, output: str, dry_run: bool) -> None:
    """Remove what nothing refers to: environments and files that no bundle names, and what a killed gateway unpacked.

    Safe beside a running gateway, beside pack and pull. What is younger than a day is left. Bundles are never removed.

    \b
    Examples:
      snowgate bundle gc --dry-run
      snowgate bundle gc
    """
    found = list(collect(existing_home(home), remove=not dry_run))
    rows = [{"path": str(one.path), "kind": one.kind, "size_bytes": one.size_bytes} for one in found]
    columns: list[Column] = [
        ("path", lambda one: one["path"]),
        ("kind", lambda one: one["kind"]),
        ("bytes", lambda one: f"{one['size_bytes']:,}"),
    ]
    show(rows, output, columns=columns, name="path")
    progress(f"{sum(one.size_bytes for one in found):,} bytes {'would be' if dry_run else 'are'} free again")


@bundle.command()
@home_option
@output_option
@click.option("--type", "types", multiple=True, help="A type of which a scikit-learn model may be made; repeatable.")
@click.argument("key", type=click.Path(path_type=Path, exists=True), required=False)
def trust(home: Path, output: str, types: tuple[str, ...], key: Path | None) -> None:
    """Trust a signer: bundles that carry the signature of this public key (PEM) may run here.

    With --type: models in the skops format may be made of these types too, whoever signed them must be trusted besides.

    \b
    Examples:
      snowgate bundle trust colleague.pub
      snowgate bundle trust --type sklearn.tree._tree.Tree
    """
    if key is None and not types:
        raise click.UsageError("Give a public key, or types with --type.")
    keys = Home(home).make().keys()
    for one in types:
        keys.trust_type(one)
    result = {"key": None if key is None else keys.trust(key), "types": keys.trusted_types(), "trusted": True}
    show(result, output, name="key" if key is not None else "types", tell=lambda one: facts(list(one.items())))


def signer(signature: dict[str, Any]) -> str:
    """Say whose signature it is, and whether it counts here."""
    return f"{signature['key'][:16]} ({'trusted' if signature['trusted'] else 'NOT TRUSTED'})"


def code_words(code: dict[str, Any] | None) -> str | None:
    """Say which code it was."""
    if not code:
        return None
    return f"tree {code['tree'] or code['archive']}{' (uncommitted changes)' if code['dirty'] else ''}"


def reproduced_words(said: dict[str, Any]) -> str:
    """Say what came of training it again, and when."""
    kind = "" if said["kind"] == "reproduction" else f" (a rehearsal with other {', '.join(said['changed'])})"
    return f"{said['verdict']}{kind} on {said['time'][:10]} by {said['by']}"


def _tensor_words(tensor: dict[str, Any]) -> str:
    """Say what a tensor is.

    >>> _tensor_words({"name": "photo", "datatype": "BYTES", "shape": [-1], "content_type": "image/*"})
    'photo: BYTES [-1] image/*'
    """
    meaning = tensor.get("semantic") or tensor.get("content_type") or ""
    return f"{tensor['name']}: {tensor['datatype']} {tensor['shape']} {meaning}".rstrip()


def _tell(one: dict[str, Any]) -> None:
    environment = one["environment"]
    facts(
        [
            ("bundle", f"{one['model']}@{one['version']}   {one['digest']}"),
            ("refs", one["refs"]),
            ("created", one["created"]),
            ("by", one["authors"]),
            ("signed by", list(dict.fromkeys(signer(key) for key in one["signatures"]))),
            ("command", " ".join(one["command"] or []) or "packed from a folder, no training run was recorded"),
            ("parameters", one["parameters"]),
            ("seeds", one["seeds"]),
            ("metrics", one["metrics"]),
            ("parents", one["parents"]),
            ("code", code_words(one["code"])),
            ("environment", f"Python {environment['python']}, {environment['packages']} packages, in env/pylock.toml"),
            ("loader", f"{one['loader']}   {one['entrypoint'] or one['weights']}"),
            ("executes", [name for kind in one["executable"].values() for name in kind] or "nothing: it is data alone"),
            ("engine", [f"{tried['engine']}: {tried['reason']}" for tried in one["engines"]]),
            ("baseline", f"{one['baseline']['rows']} rows of the {one['baseline']['source']}"),
            ("signals", one["baseline"]["signals"]),
            ("reproduced", [reproduced_words(said) for said in one["reproductions"][:SHOWN_MAX]]),
            ("golden", f"{one['golden']['rows']} rows, tolerance {one['golden']['tolerance']['absolute']:g}"),
            ("size", f"{one['size_bytes']:,} bytes in {len(one['files'])} files"),
        ]
    )
    for side in ("inputs", "outputs"):
        for tensor in one[side]:
            click.echo(f"  {side[:-1]} {_tensor_words(tensor)}")
    if one["data"]:
        click.echo()
        table(
            one["data"],
            [
                ("data", lambda row: row["name"]),
                ("sha256", lambda row: row["sha256"][:19]),
                ("bytes", lambda row: row["size"]),
                ("authority", lambda row: row["authority"]),
            ],
        )
