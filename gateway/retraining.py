"""`merge --retrain`: the inputs of a proposal and of what serves now, merged and trained again.

The branch's head and the environment's bundle are compared with the bundle that both were made from. Their code,
parameters and data are merged, and the recorded command runs under the recorder in a folder of its own. What comes of
it is the branch's new head, with both bundles as parents; its weights are those of the run, nobody's average.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bundles.bundle import MODEL_PREFIX, SOURCE, Bundle, open_bundle
from bundles.data import carried
from bundles.digest import sha256_bytes
from bundles.errors import BundleError
from bundles.home import Home
from bundles.merging import Inputs, common_ancestor, merge_code, merge_inputs
from gateway.operations import OperationError
from gateway.proposals import Proposals

RECIPE = "bundle.toml"


def retrain(proposals: Proposals, id: str, *, actor: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Merge the inputs of a proposal with those of what serves now, train, and let the branch go on from there.

    Raises:
        OperationError: unknown (404), not open, nothing to merge, a conflict, lost data, or a run that failed (409).
    """
    shown = proposals.show(id)
    if shown["state"] != "open":
        raise OperationError(f"proposal {id}: was {shown['state']}", 409)
    head, base = shown["head"]["digest"], (shown["base"] or {}).get("digest")
    if base is None:
        raise OperationError(
            f"proposal {id}: nothing serves in {shown['environment']}; merge it without --retrain", 409
        )
    store = proposals.home.store()
    try:
        ancestor = common_ancestor(head, base, lambda digest: open_bundle(store, digest).config["parents"])
        if ancestor in (None, base):
            why = "is what it was made from already" if ancestor else "has no bundle in common with it"
            raise OperationError(f"proposal {id}: what serves now {why}; there is nothing to merge", 409)
        sides = [_recorded(open_bundle(store, str(one))) for one in (ancestor, head, base)]
        inputs = merge_inputs(*(side.run() for side in sides))
        with tempfile.TemporaryDirectory(prefix="snowgate-merge-") as folder:
            place = Path(folder)
            merge_code(place, *(side.file(SOURCE) for side in sides))
            _lay_out(proposals.home, place, sides, inputs, say)
            say(f"merged; training: {' '.join(inputs.command)}")
            _train(proposals, place, sides[1], inputs, shown["branch"], [head, base])
    except BundleError as error:
        raise OperationError(f"proposal {id}: {error}", 409) from error
    return proposals.rebased(id, base, actor=actor, reason=f"trained again on {base[:19]}, which serves now")


def _recorded(bundle: Bundle) -> Bundle:
    if not bundle.run():
        raise OperationError(
            f"bundle {bundle.digest[:19]} was packed from a folder: no run was recorded that could be merged; train on "
            "the branch by hand: snowgate train --branch",
            409,
        )
    return bundle


def _lay_out(home: Home, place: Path, sides: Sequence[Bundle], inputs: Inputs, say: Callable[[str], None]) -> None:
    """Put the data where the run reads it, and the recipe into the output folder, if the code brings none."""
    run = sides[1].run()
    folder = (place / run["code"].get("directory", ".")).resolve()
    archived = {digest: data for side in sides for digest, data in _archived(side).items()}
    lost, placed = [], []
    for where, one in inputs.data.items():
        target = (folder / where).resolve()
        data = archived.get(one["sha256"]) or _bytes_of(home, sides, one)
        if data is None:
            lost.append(f"{where} ({one['sha256'][:19]}, was at {one['path']})")
        elif target.is_relative_to(place.resolve()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            placed.append(f"/{target.relative_to(place.resolve())}")
            say(f"data: {where}")
    if lost:
        what = ", ".join(lost)
        raise OperationError(f"data lost: {what}; snowgate data fetch REF --from PLACE brings back a copy", 409)
    # What was no part of the code before is none now.
    (place / ".git" / "info" / "exclude").write_text("".join(f"{name}\n" for name in placed))
    recipe = folder / run.get("output", "model") / RECIPE
    if not recipe.exists():
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_bytes(sides[1].file(MODEL_PREFIX + RECIPE))


def _archived(bundle: Bundle) -> dict[str, bytes]:
    """Return the files of the source archive by their digests: small data often lies beside the code."""
    with tarfile.open(fileobj=BytesIO(bundle.file(SOURCE))) as tar:
        files = [opened.read() for member in tar if (opened := tar.extractfile(member)) is not None]
    return {sha256_bytes(data): data for data in files}


def _bytes_of(home: Home, sides: Sequence[Bundle], one: Mapping[str, Any]) -> bytes | None:
    """Return a file's bytes out of a bundle, from the home's copy, or from where they are still what they were."""
    found = next((data for side in sides if (data := carried(side, one)) is not None), None)
    if found is not None:
        return found
    copy = home.data().find(one["sha256"])
    try:
        data = (copy or Path(unquote(urlsplit(one["path"]).path))).read_bytes()
    except OSError:
        return None
    return data if sha256_bytes(data) == one["sha256"] else None


def _train(
    proposals: Proposals, place: Path, head: Bundle, inputs: Inputs, branch: str, parents: Sequence[str]
) -> None:
    """Run the command under the recorder, as a person would."""
    run = head.run()
    model, _at, name = branch.partition("@")
    words = ["train", "--home", str(proposals.home.path.resolve()), "--model", model, "--branch", name]
    words += ["--into", run.get("output", "model")]
    words += [word for parent in parents for word in ("--parent", parent)]
    words += [word for key, value in inputs.parameters.items() for word in ("--parameter", f"{key}={value}")]
    command = [sys.executable, "-P", "-m", "gateway.cli", *words, "-o", "name", "--", *inputs.command]
    done = subprocess.run(
        command,
        cwd=place / run["code"].get("directory", "."),
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise OperationError("the run on the merged inputs failed; what it said is above, and nothing was changed", 409)
