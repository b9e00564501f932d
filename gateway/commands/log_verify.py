"""`snowgate log verify`."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import click
import orjson

from bundles.home import Home
from gateway import checkpoints
from gateway.commands.options import existing_home, home_option, output_option, progress
from gateway.notary import HomeNotary
from gateway.output import facts, show
from monitors.log.reader import LogReader
from monitors.log.signed import Envelope
from monitors.log.verify import Progress
from state.sqlite import SqliteState

PROGRESS_SECONDS = 5.0
CAUSES = {
    "altered": "the disk has changed bytes (look at `dmesg`, `smartctl -a`), or somebody has changed files",
    "missing": "a file or a part of one is gone: removed, or put back to an older state, or a disk that is not mounted",
    "reordered": "files or parts of files are not where they were written; a disk does not do that, somebody has",
}


@click.command()
@home_option
@click.option(
    "--checkpoint",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A copy of log/checkpoints that was kept elsewhere: the log must hold what it says, too.",
)
@output_option
def verify(home: Path, files: tuple[Path, ...], output: str) -> int:
    """Walk every frame: sums, gapless numbers, the chain, and what was signed of it. Exit code 1 when anything is
    wrong.

    It may run beside a gateway, and changes nothing. Each record counts once: as answered, refused, shadow, or as a
    tombstone when its payload was erased.

    \b
    Examples:
      snowgate log verify
      snowgate log verify -o json | jq .first_bad
      snowgate log verify --checkpoint backup/checkpoints
    """
    opened = existing_home(home)
    notary = HomeNotary(opened.keys())
    kept = [*_kept_in_state(opened), *_kept_in_files(files)]
    report = asdict(LogReader(opened.log).verify(notary if notary.has_keys else None, kept, _progress()))
    show(report, output, name="records", tell=lambda one: _tell(one, opened))
    return 0 if report["first_bad"] is None else 1


def _kept_in_state(home: Home) -> Iterator[Envelope]:
    if home.state.exists():
        with closing(SqliteState(home.state)) as state:
            document = state.get(checkpoints.KEY)
        if document is not None:
            yield document.body["envelope"]


def _kept_in_files(files: Sequence[Path]) -> Iterator[Envelope]:
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                yield dict(orjson.loads(line))
            except ValueError as error:
                msg = (
                    f"--checkpoint {file}: line {number} is no JSON object: {error}; expected a copy of log/checkpoints"
                )
                raise click.UsageError(msg) from error


def _progress() -> Progress:
    """Say on standard error how far it is, every few seconds: a long log takes minutes."""
    last = monotonic()

    def told(records: int, walked: int, total: int) -> None:
        nonlocal last
        if monotonic() - last > PROGRESS_SECONDS:
            last = monotonic()
            progress(f"{records:,} records, {walked / 1e9:,.1f} of {total / 1e9:,.1f} GB")

    return told


def _tell(report: dict[str, Any], home: Home) -> None:
    """Tell it to a human: the counts, whether all is well, what that rests on, and what to do if it is not."""
    counts = ("records", "answered", "refused", "shadow", "tombstones")
    facts([(name, f"{report[name]:,}") for name in counts])
    click.echo()
    bad = report["first_bad"]
    if bad is None:
        click.echo("Good: every sum, every number and the whole chain hold.")
    else:
        click.echo(f"BAD in {report['bad']:,} place{'s' if report['bad'] != 1 else ''}. The first:")
        click.echo(f"  {bad['kind']}: writer {bad['writer']}, segment {bad['segment']}, from seq {bad['seq']} on")
        click.echo(f"  {bad['message']}")
    click.echo(_rests_on(report["checkpoint"]))
    if bad is not None:
        click.echo("What to do now:")
        click.echo(f"  1. Keep it as it is:  cp -a {home.log} ELSEWHERE  (the gateway may go on; it only adds)")
        click.echo(f"  2. Likely: {CAUSES[bad['kind']]}.")
        click.echo("  3. Bring the named file back from a backup, and run `snowgate log verify` again.")
        click.echo('     docs/log.md, "When something is bad", says what each finding means.')


def _rests_on(checkpoint: dict[str, Any] | None) -> str:
    if checkpoint is None:
        return (
            "Not signed: damage by accident would be noticed; what somebody changes who mends the sums would not.\n"
            "`snowgate serve` signs every few seconds."
        )
    before = ", ".join(f"{writer} seq {seq:,}" for writer, seq in sorted(checkpoint["seqs"].items())) or "nothing"
    said = f"Checkpoint {checkpoint['number']:,} of {checkpoint['time']}"
    if checkpoint["key"] is None:
        return (
            f"{said} says what was there before {before}. No key is here to check its signature,\n"
            "so accidents are noticed, and no more; `snowgate bundle trust KEY.pub` adds the key."
        )
    return (
        f"{said} is signed by {checkpoint['key'][:16]}. A change to what came before\n"
        f"{before}, by anybody without that key, would be noticed.\n"
        f"Behind it are {checkpoint['records_behind']:,} records, of which damage by accident would be noticed."
    )
