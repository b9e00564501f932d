"""How a bundle gets there and here, wherever that is.

Out: what is missing there, then the manifest, then the statements, then the name; so whoever finds the name finds all.
In: the manifest, the statements, the configuration, then whatever is missing here; then the index, then the version.
"""

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol

from bundles.bundle import BASELINE, PROVENANCE, Bundle, assemble
from bundles.digest import sha256_bytes
from bundles.errors import CorruptBundle, HomeError, RefConflict, RemoteUnavailable, UnknownReference
from bundles.home import Home
from bundles.manifest import Descriptor, parse_manifest
from bundles.refs import check_name
from bundles.remote.session import WAIT_SECONDS_MAX, WAITS_SECONDS
from bundles.runner import golden
from bundles.statement import EMPTY_BLOB, Statement, parse_envelope, parse_statement
from bundles.store import BundleStore

Say = Callable[[str], None]
NEEDED = (BASELINE, PROVENANCE, golden.INPUTS, golden.OUTPUTS)
STATEMENTS_MAX = 1000
# Beside the bundle, a home must be able to go on writing its log.
ROOM_BYTES = 64 * 1024 * 1024
TOLD_BYTES = 256 * 1024 * 1024


class Source(Protocol):
    """Where bundles are read from. Nothing that it says is believed."""

    def manifest(self, digest: str) -> bytes:
        """Return the manifest that has, they say, this digest. Raises UnknownReference."""
        ...

    def statements(self, digest: str) -> list[str]:
        """Return the digests of the manifests of statements about a bundle."""
        ...

    def blob(self, descriptor: Descriptor, start: int) -> Generator[bytes]:
        """Yield a blob's bytes from `start` on."""
        ...


class Named(Protocol):
    """A place in which manifests have names."""

    def tagged(self, tag: str) -> str | None:
        """Return the digest of the manifest under a tag, or None."""
        ...

    def tags(self) -> list[str]:
        """Return the tags that there are, some at least."""
        ...


class Destination(Named, Protocol):
    """Where bundles are written to."""

    def has(self, descriptor: Descriptor) -> bool:
        """Say whether a blob is there."""
        ...

    def put(self, descriptor: Descriptor, chunks: Callable[[], Iterable[bytes]]) -> None:
        """Write a blob."""
        ...

    def put_manifest(self, digest: str, data: bytes) -> None:
        """Write a manifest, whose blobs are there."""
        ...

    def put_statement(self, statement: Statement) -> None:
        """Write a statement's manifest, whose blobs are there, where those who look for the bundle's find it."""
        ...

    def put_tag(self, tag: str, digest: str, data: bytes) -> None:
        """Give a manifest that is there a name."""
        ...


@dataclass(frozen=True, slots=True)
class Moved:
    """What a transfer moved: of all files, those that were missing on the other side."""

    files: int
    files_moved: int
    bytes_moved: int
    statements: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """A bundle whose every byte is here and right, and that no index names yet."""

    bundle: Bundle
    statements: tuple[Statement, ...]
    moved: Moved


def push(store: BundleStore, digest: str, there: Destination, tag: str, *, replace: bool, say: Say) -> Moved:
    """Send a bundle with the statements about it.

    Raises:
        RefConflict: the tag names another bundle, and `replace` was not said.
        RemoteError: the place refuses, or can't be reached several times.
        CorruptBundle: the bundle here is damaged.
    """
    named = there.tagged(tag)
    if named not in (None, digest) and not replace:
        msg = f"the tag {tag!r} there names another bundle, {named}; take another tag, or say --replace"
        raise RefConflict(msg)
    manifest = store.manifest(digest)
    files = _distinct((manifest.config, *manifest.layers))
    absent = [one for one in files if not there.has(one)]
    for number, one in enumerate(absent, 1):
        say(f"{number} of {len(absent)}: {_name(one)}, {one.size:,} bytes")
        there.put(one, partial(_outgoing, store, one, say))
    data = manifest.to_bytes()
    there.put_manifest(digest, data)
    statements = store.statements(digest)
    if statements and not there.has(EMPTY_BLOB):
        there.put(EMPTY_BLOB, partial(store.chunks, EMPTY_BLOB))
    for statement in statements:
        if not there.has(statement.envelope):
            there.put(statement.envelope, partial(store.chunks, statement.envelope))
        there.put_statement(statement)
    there.put_tag(tag, digest, data)
    return Moved(len(files), len(absent), sum(one.size for one in absent), len(statements))


def find(there: Named, address: str, tag: str | None) -> str:
    """Return the digest that a tag names. Raises UnknownReference, saying what there is."""
    digest = None if tag is None else there.tagged(tag)
    if digest is None:
        tags = ", ".join(there.tags()[:20])
        problem = "give a tag or a digest" if tag is None else "there is no such tag"
        msg = (
            f"{address}: {problem}; {f'there are: {tags}' if tags else 'there are no bundles, or you may not see them'}"
        )
        raise UnknownReference(msg)
    return digest


def receive(home: Home, source: Source, digest: str, *, say: Say, waits: Sequence[float] = WAITS_SECONDS) -> Arrived:
    """Bring every byte of a bundle here, checked.

    Raises:
        CorruptBundle: something is not what its digest says, or not as a bundle must be.
        UnknownReference: something is not there.
        RemoteError: the source refuses, or can't be reached several times.
        HomeError: there is no room.
    """
    store = home.store()
    data = source.manifest(digest)
    if sha256_bytes(data) != digest:
        raise CorruptBundle("manifest", f"is not what was asked for: its digest is {sha256_bytes(data)}, not {digest}")
    manifest = parse_manifest(data)
    for path in NEEDED:
        if path not in manifest.files():
            raise CorruptBundle(path, "is not in the manifest, so this is no bundle that could be served")
    statements = _statements(store, source, digest, waits, say)
    files = _distinct((manifest.config, *manifest.layers))
    absent = [one for one in files if not store.holds(one)]
    needed, free = sum(one.size for one in absent), shutil.disk_usage(home.path).free
    if needed + ROOM_BYTES > free:
        msg = f"{home.path}: {needed:,} bytes are to come and {free:,} are free; make room, or give another --home"
        raise HomeError(msg)
    for number, one in enumerate(absent, 1):
        say(f"{number} of {len(absent)}: {_name(one)}, {one.size:,} bytes")
        _bring(store, source, one, waits, say)
        if one is manifest.config:
            _check(assemble(store, digest, manifest))  # Before the rest comes, which may be gigabytes.
    bundle = _check(assemble(store, digest, manifest))
    return Arrived(bundle, statements, Moved(len(files), len(absent), needed, len(statements)))


def accept(home: Home, arrived: Arrived, *, origin: str, actor: str) -> str:
    """Put a bundle that has arrived into the index, and return its version: the one that it has, or the next."""
    store, bundle = home.store(), arrived.bundle
    store.add_manifest(bundle.manifest)
    for statement in arrived.statements:
        store.attach(bundle.digest, parse_envelope(store.read(statement.envelope)))
    details = {"created": bundle.config["created"], "origin": origin}
    reason = f"received from {origin}"
    return home.refs().claim_version(
        bundle.model, bundle.digest, actor=actor, details=details, reason=reason, once=True
    )


def _statements(
    store: BundleStore, source: Source, digest: str, waits: Sequence[float], say: Say
) -> tuple[Statement, ...]:
    """Bring the statements about a bundle here; whether anybody believes them is not asked yet."""
    names = list(dict.fromkeys(source.statements(digest)))
    if len(names) > STATEMENTS_MAX:
        msg = f"has {len(names)} statements about it, expected at most {STATEMENTS_MAX}"
        raise CorruptBundle(digest, msg)
    found = []
    for name in names:
        data = source.manifest(name)
        if sha256_bytes(data) != name:
            raise CorruptBundle("attestation manifest", f"arrived altered: it is {sha256_bytes(data)}, expected {name}")
        found.append(parse_statement(data, digest))
    for envelope in (one.envelope for one in found):
        if not store.holds(envelope):
            _bring(store, source, envelope, waits, say)
        parse_envelope(store.read(envelope))
    return tuple(found)


def _check(bundle: Bundle) -> Bundle:
    """Return a bundle from elsewhere when what lists and names bundles can rely on it. Raises BundleError."""
    check_name("model", bundle.model)
    created = bundle.config.get("created")
    if not isinstance(created, str) or not created.isprintable() or len(created) > 40:
        raise CorruptBundle("config.json", f"was created at {str(created)[:100]!r}, expected a time")
    return bundle


def _bring(store: BundleStore, source: Source, descriptor: Descriptor, waits: Sequence[float], say: Say) -> None:
    # Closed at once when the store has had enough: behind it is a connection.
    with closing(_resumed(source, descriptor, waits, say)) as chunks:
        store.receive(descriptor, _told(descriptor, chunks, say))


def _resumed(source: Source, descriptor: Descriptor, waits: Sequence[float], say: Say) -> Generator[bytes]:
    """Yield a blob's bytes; when the connection breaks, go on where it broke, as often as there are `waits`."""
    start = 0
    for attempt in count():
        try:
            with closing(source.blob(descriptor, start)) as chunks:
                for chunk in chunks:
                    start += len(chunk)
                    yield chunk
            return
        except RemoteUnavailable as error:
            if attempt == len(waits):
                raise
            seconds = max(waits[attempt], min(error.after, WAIT_SECONDS_MAX))
            say(f"{error}; going on at byte {start:,} in {seconds:g} s")
            time.sleep(seconds)


def _outgoing(store: BundleStore, descriptor: Descriptor, say: Say) -> Iterator[bytes]:
    return _told(descriptor, store.chunks(descriptor), say)


def _told(descriptor: Descriptor, chunks: Iterable[bytes], say: Say) -> Iterator[bytes]:
    """Pass the bytes of a file on, and say now and then how far it is."""
    moved = told = 0
    for chunk in chunks:
        yield chunk
        moved += len(chunk)
        if moved - told >= TOLD_BYTES:
            told = moved
            say(f"{_name(descriptor)}: {moved:,} of {descriptor.size:,} bytes")


def _distinct(descriptors: Iterable[Descriptor]) -> list[Descriptor]:
    """Return each blob once, in the order in which they come first."""
    found: dict[str, Descriptor] = {}
    for one in descriptors:
        found.setdefault(one.digest, one)
    return list(found.values())


def _name(descriptor: Descriptor) -> str:
    return descriptor.path or "config.json"
