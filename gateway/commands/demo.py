"""`snowgate demo`."""

import json
import signal
import tempfile
import threading
import time
from pathlib import Path

import click

from gateway.demo.receiver import Receiver
from gateway.demo.story import StepFailed, Story


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="A new folder for the demo's home.  [default: temporary]")
@click.option("--port", type=int, default=0, show_default=True, help="Data port; 0 picks a free one.")
@click.option("--keep", is_flag=True, help="Go on serving when the story is told, until SIGTERM or Ctrl-C.")
def demo(home: Path | None, port: int, keep: bool) -> int:
    """Tell the whole story on real images: train, pack, serve, predict, snow, page, decide.

    The story is told on standard error; with --keep one JSON line on standard output says where the gateway is.

    \b
    Examples:
      snowgate demo
      snowgate demo --home ./snow --port 8080 --keep
    """
    if home is not None and home.exists() and any(home.iterdir()):
        raise click.UsageError(f"--home {home}: is not empty; give a new folder, or `snowgate serve --home {home}`")
    with tempfile.TemporaryDirectory(prefix="snowgate-demo-") as temporary, Receiver() as receiver:
        place = home or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        story = Story(place, port, lambda text: click.echo(text, err=True))
        try:
            story.tell(receiver)
            click.echo(f"\nAll of it came true, in {time.monotonic() - began:.0f} s.", err=True)
            if keep:
                _keep(story)
        except StepFailed as failure:
            click.echo(f"\n✖ {failure}", err=True)
            return 1
        finally:
            story.stop()
    return 0


def _keep(story: Story) -> None:
    """Say where everything is, and wait."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ending.set())
    where = story.addresses
    click.echo(json.dumps({"keep": True, "http": where["http"], "grpc": where["grpc"], "control": where["control"]}))
    click.echo(f"console: {where['control']}/   home: {story.home}   end with Ctrl-C", err=True)
    while not ending.wait(0.5):
        if story.server is not None and story.server.poll() is not None:
            raise StepFailed(f"serve ended with exit status {story.server.returncode}")
