"""`snowgate doctor`: look at everything a gateway will need before it needs it.

Each check is a function of the home and the settings that returns findings; nothing here changes a file of the home.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from bundles.home import Home
from bundles.runner import confine
from bundles.runner.engines import EAGER, TABLE
from bundles.runner.trial import installed
from gateway.app import check_export, check_exposure, check_tracing, port_numbers
from gateway.commands.options import home_option, output_option
from gateway.export.process import NAME
from gateway.output import show
from gateway.settings import Settings, SettingsError, find_file, load_settings, read_environment
from monitors.log.cursors import standings
from monitors.log.errors import LogError

SYNC_SECONDS_MAX = 0.05  # An answer waits for one sync: beyond 50 ms that is most of its latency.
FREE_BYTES_MIN = 2**30  # Sixteen segments of the prediction log, 64 MiB each.
SOCKET_PATH_BYTES_MAX = 100  # Linux allows 107; the runner adds a folder and a name to the temporary folder.
SYNC_TRIES = 5
MARKS = {"ok": "✔", "warning": "▲", "failed": "✖"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `state` is ok, warning or failed, `advice` says what to do about it."""

    check: str
    state: str
    found: str
    advice: str = ""


@click.command()
@home_option
@output_option
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file.  [default: snowgate.toml]")
def doctor(home: Path, output: str, file: Path | None) -> int:
    """Check that this machine, this home and these settings can serve. Exit code 1 when anything is wrong.

    \b
    Examples:
      snowgate doctor
      snowgate doctor --home /var/lib/snowgate -o json
    """
    findings = list(diagnose(Home(home), file))
    show([asdict(one) for one in findings], output, name="check", tell=_tell)
    return 1 if any(one.state == "failed" for one in findings) else 0


def diagnose(home: Home, file: Path | None) -> Iterator[Finding]:
    """Run all checks, the cheap ones first."""
    yield from _installation()
    yield from _sockets()
    yield _confinement()
    yield from _home(home)
    try:
        settings, _origins = load_settings(file or find_file(home.path), read_environment(), {})
    except SettingsError as error:
        yield Finding("settings", "failed", str(error), "`snowgate config schema` says what is expected")
        return
    yield Finding("settings", "ok", str(file or find_file(home.path) or "defaults, no snowgate.toml"))
    yield from _exposure(settings)
    yield from _ports(settings, _served_by(home))
    yield _tracing(settings)
    url = settings.page.webhook.url
    if url is None:
        yield Finding("pages", "warning", "no webhook: incidents reach nobody", "set [page.webhook] url")
    else:
        yield Finding("pages", "ok", "a webhook is set")  # Its URL often is a secret.
    yield from _export(home, settings)


def _tell(findings: list[dict[str, str]]) -> None:
    width = max(len(one["check"]) for one in findings)
    for one in findings:
        click.echo(f"{MARKS[one['state']]} {one['state']:7}  {one['check']:{width}}  {one['found']}")
        if one["advice"]:
            click.echo(f"{'':{width + 13}}{one['advice']}")


def _installation() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}, {platform.platform()}")
    missing, found = [], []
    for requirement in importlib.metadata.requires("snowgate") or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^\w-]", requirement, maxsplit=1)[0]
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", "failed", f"missing: {', '.join(missing)}", "pip install snowgate, once more")
    else:
        yield Finding("packages", "ok", ", ".join(found))
    try:
        yield Finding("torch", "ok", f"{importlib.metadata.version('torch')}: torch bundles can be packed and served")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("torch", "warning", "not installed: torch bundles can't run", "pip install 'snowgate[torch]'")
    try:
        two = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("duckdb", "pyarrow"))
        yield Finding("parquet", "ok", f"{two}: the log is projected into Parquet, and answers SQL")
    except importlib.metadata.PackageNotFoundError as error:
        text = f"{error.name} is not installed: the log is compressed only, and answers no SQL"
        yield Finding("parquet", "warning", text, "pip install 'snowgate[parquet]'")
    more = [f"{name} {found}" for name, found in installed().items() if name in TABLE]
    advice = "" if more else "pip install 'snowgate[onnxruntime]': it often takes a third of the time"
    yield Finding("engines", "ok", ", ".join([f"torch's own ({EAGER} and others)", *more]), advice)
    yield _images()


def _images() -> Finding:
    try:
        return Finding("images", "ok", f"pillow {importlib.metadata.version('pillow')}: bundles can decode pictures")
    except importlib.metadata.PackageNotFoundError:
        found = "pillow is not installed: bundles that decode pictures need it, here or in an environment of their own"
        return Finding("images", "ok", found, "pip install 'snowgate[images]'")


def _tracing(settings: Settings) -> Finding:
    endpoint = settings.tracing.endpoint
    if endpoint is None:
        return Finding("tracing", "ok", "no endpoint: no call is traced")
    try:
        check_tracing(settings)
    except SettingsError as error:
        return Finding("tracing", "failed", str(error))
    host = urlsplit(endpoint).hostname  # What stands before it in a URL may be a password.
    return Finding("tracing", "ok", f"{settings.tracing.sample_ratio:.2%} of the calls are traced, spans go to {host}")


def _confinement() -> Finding:
    missing = [f"{kind}: {said}" for kind, said in confine.offered().items() if said != confine.ON]
    if missing:
        advice = "models then run with more than they need; a kernel since 6.12 offers all"
        return Finding("confinement", "warning", "; ".join(missing), advice)
    return Finding("confinement", "ok", "runners can be kept from network, files and rights that they do not need")


def _sockets() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    longest = len(f"{folder}/snowgate-xxxxxxxx/1234567/runner.sock")
    if longest > SOCKET_PATH_BYTES_MAX:
        advice = "set TMPDIR to a folder with a shorter name"
        yield Finding("sockets", "failed", f"{folder}: too long a path for a unix socket", advice)
    else:
        yield Finding("sockets", "ok", f"in {folder}")


def _home(home: Home) -> Iterator[Finding]:
    folder = home.path
    if not folder.exists():
        folder = next(parent for parent in folder.absolute().parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            yield Finding("home", "failed", f"{home.path}: {folder} can't be written", "give another with --home")
            return
        yield Finding("home", "ok", f"{home.path} does not exist yet; the first command that needs it makes it")
    elif not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("home", "failed", f"{folder}: can't be written by this user", "give another with --home")
        return
    else:
        yield Finding("home", "ok", f"{folder}, {_served_by(home) or 'not served at the moment'}")
    free = shutil.disk_usage(folder).free
    state = "ok" if free > FREE_BYTES_MIN else "warning"
    yield Finding("disk", state, f"{free / 2**30:.1f} GiB free", "" if state == "ok" else "free some, or move the home")
    try:
        yield _sync(folder)
    except OSError as error:
        yield Finding("sync", "failed", f"{folder}: {error.strerror}", "make room, or see what the disk says")


def _sync(folder: Path) -> Finding:
    """Time what every answer waits for: a small write and its sync, on the home's own disk."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".snowgate-doctor-") as file:
        times = []
        for _ in range(SYNC_TRIES):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    middle = sorted(times)[SYNC_TRIES // 2]
    text = f"a synced write takes {middle * 1000:.1f} ms"
    if middle > SYNC_SECONDS_MAX:
        return Finding("sync", "warning", text, "every answer waits for one: put the home on a local disk")
    return Finding("sync", "ok", text)


def _served_by(home: Home) -> str | None:
    """Say which process holds the home's lock, without touching the lock: a gateway may be starting right now."""
    lock = home.path / "lock"
    if not lock.exists():
        return None
    inode = f":{lock.stat().st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" in words and any(word.endswith(inode) for word in words):
            return f"served by {lock.read_text().strip() or 'another process'}"
    return None


def _exposure(settings: Settings) -> Iterator[Finding]:
    try:
        check_exposure(settings)
    except SettingsError as error:
        yield Finding("exposure", "failed", str(error))
        return
    reached = "this machine only" if settings.loopback else f"others reach {settings.server.host}"
    asked = "keys are asked for" if settings.server.api_keys_file else "no keys are asked for"
    insecure = not settings.loopback and settings.server.api_keys_file is None
    yield Finding("exposure", "warning" if insecure else "ok", f"{reached}, {asked}")


def _export(home: Home, settings: Settings) -> Iterator[Finding]:
    if settings.export.url is not None:
        try:
            check_export(settings)
        except SettingsError as error:
            yield Finding("export", "failed", str(error))
            return
        yield Finding("export", "ok", f"the log goes to a receiver, as {settings.export.format}")
    try:
        left = NAME in standings(home.log) and settings.export.url is None
    except LogError as error:
        yield Finding("cursors", "failed", str(error))
        return
    if left:
        advice = f"`snowgate log cursors --drop {NAME}`, unless the export goes on later"
        yield Finding("export", "warning", "switched off, and what it has yet to read is kept for it", advice)


def _ports(settings: Settings, served_by: str | None) -> Iterator[Finding]:
    ports = {meaning: number for meaning, number in port_numbers(settings).items() if number}
    if not ports:
        yield Finding("ports", "ok", "free ones are picked at the start")
    elif served_by:
        numbers = ", ".join(map(str, ports.values()))
        yield Finding("ports", "ok", f"{numbers}: not checked, this home is {served_by}")
    else:
        for meaning, number in ports.items():
            yield _port(settings.server.host, number, meaning)


def _port(host: str, number: int, meaning: str) -> Finding:
    try:
        socket.create_server((host, number), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        flag = "--grpc-port" if meaning == "gRPC" else "--port"
        advice = f"`snowgate serve {flag} {number + 10}`, or {flag} 0 for a free one"
        return Finding(f"{meaning} port", "failed", f"{host} port {number}: {error.strerror}", advice)
    return Finding(f"{meaning} port", "ok", f"{host} port {number} is free")
