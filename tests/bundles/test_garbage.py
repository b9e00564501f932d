"""What nothing refers to is found and removed, and nothing else, beside a gateway and beside who packs."""

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from bundles.bundle import SERVING_LOCK
from bundles.environments import YOUNG_SECONDS
from bundles.errors import CorruptBundle
from bundles.garbage import Garbage, collect
from bundles.home import Home
from bundles.manifest import CODE_TYPE
from bundles.packing import Packed
from tests.conftest import Gateway, snowgate

NAMED, FORGOTTEN = "a lock that a bundle names", "a lock of a bundle that was removed"


def environment(home: Home, lock: str, age_seconds: float = YOUNG_SECONDS + 60) -> Path:
    """Make what looks like the environment of a lock, with a file of 10 kB."""
    folder = home.path / "environments" / sha256(lock.encode()).hexdigest()[:32]
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_bytes(b"x" * 10_000)
    os.utime(folder, times=(time.time() - age_seconds,) * 2)
    return folder


def name_in_a_bundle(home: Home, packed: Packed, lock: str) -> None:
    """Store another bundle, like the one that is there but for the lock of an environment of its own."""
    store = home.store()
    manifest = store.manifest(packed.digest)
    layer = store.add_blob(lock.encode(), CODE_TYPE, SERVING_LOCK)
    store.add_manifest(replace(manifest, layers=(*manifest.layers, layer)))


def found(home: Home, *, remove: bool) -> list[Garbage]:
    """Collect it all."""
    return list(collect(home, remove=remove))


def test_what_no_bundle_names_goes(home: Home, packed: Packed) -> None:
    """An environment without a bundle and a build that broke off are told, then removed; named and young ones stay."""
    name_in_a_bundle(home, packed, NAMED)
    stays = [environment(home, NAMED), environment(home, "of somebody who packs just now", age_seconds=60)]
    gone = environment(home, FORGOTTEN)
    broken = home.path / "environments" / "building-abc"
    broken.mkdir()
    os.utime(broken, times=(0, 0))
    told = found(home, remove=False)
    assert {(one.path, one.kind) for one in told} == {(gone, "environment"), (broken, "environment")}
    assert max(one.size_bytes for one in told) >= 10_000
    assert gone.exists()
    assert found(home, remove=True) == told
    assert sorted(one for one in (home.path / "environments").iterdir() if one.is_dir()) == sorted(stays)
    assert found(home, remove=True) == []


def test_an_environment_that_is_taken_up_meanwhile_stays(home: Home, packed: Packed) -> None:
    """Who builds it has its lock; and a bundle that comes between looking and removing names it."""
    folder = environment(home, FORGOTTEN)
    with (home.path / "environments" / f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert found(home, remove=True) == []
    environments = home.environments()
    assert environments.unused(list) == [folder]
    assert not environments.remove(folder, lambda: [FORGOTTEN])
    assert folder.exists()


def test_what_a_dead_gateway_unpacked_goes_and_a_living_one_keeps_its_own(
    home: Home, packed: Packed, start: Callable[..., Gateway]
) -> None:
    """A gateway that was killed leaves what it unpacked; one that lives is not disturbed, and goes on answering."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    environment(home, FORGOTTEN)
    assert [one["kind"] for one in gateway.snowgate("bundle", "gc")] == ["environment"]
    assert len(list(home.run.iterdir())) == 1
    assert gateway.call()[0] == 200
    gateway.process.kill()
    gateway.process.wait(20)
    (told,) = gateway.snowgate("bundle", "gc", "--dry-run")
    assert (told["kind"], Path(told["path"]).parent) == ("unpacked", home.run)
    assert gateway.snowgate("bundle", "gc") == [told]
    assert list(home.run.iterdir()) == []


def test_nothing_is_removed_where_a_bundle_can_not_be_read(home: Home, packed: Packed) -> None:
    """Without knowing what all bundles name, nobody knows what is garbage."""
    name_in_a_bundle(home, packed, NAMED)
    named, other = environment(home, NAMED), environment(home, FORGOTTEN)
    blob = home.path / "bundles" / "blobs" / "sha256" / sha256(NAMED.encode()).hexdigest()
    blob.chmod(0o644)
    blob.write_bytes(b"gone bad")
    with pytest.raises(CorruptBundle):
        found(home, remove=True)
    assert named.exists()
    assert other.exists()
