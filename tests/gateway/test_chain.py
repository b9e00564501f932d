"""The chain from an answer to what stands behind it, on a home in the middle of its story."""

from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any

import numpy as np
from safetensors.numpy import save

from bundles.packing import pack
from gateway.audit import rfc3339
from gateway.chain import chain
from monitors.log.record import Record
from state import Change
from tests.conftest import write_model
from tests.gateway.conftest import INCIDENT, Story


def provenance(story: Story) -> dict[str, Any]:
    """Walk the chain of the story's answered prediction."""
    found: dict[str, Any] = story.operations.prediction(story.answered, chain_wanted=True)["provenance"]
    return found


def test_chain_leads_to_bundle_people_and_deployment(story: Story) -> None:
    """The chain names the bundle, its signer, who made it and who deployed it before the prediction."""
    found = provenance(story)
    assert found["bundle"]["digest"] == story.home.refs().resolve("signs@2")[0]
    assert found["bundle"]["refs"] == ["signs@2", "signs@main", "signs@production"]
    assert (found["intact"], found["problem"]) == (True, None)
    assert found["signed"][0]["trusted"]
    assert [(one["by"], one["canary"], one["before_prediction"]) for one in found["deployed"]] == [("grace", 20, True)]
    assert found["trained"]["by"]
    assert found["environment"]["packages"] > 0


def test_chain_says_when_a_file_of_the_bundle_was_altered(story: Story) -> None:
    """A flipped byte is named with its path, and the rest of the chain is still told."""
    digest = story.home.refs().resolve("signs@2")[0]
    layer = story.home.store().manifest(digest).files()["model/model.py"]
    blob = story.home.path / "bundles" / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")
    blob.chmod(0o644)
    blob.write_bytes(b"X" + blob.read_bytes()[1:])
    found = provenance(story)
    assert not found["intact"]
    assert "model/model.py" in found["problem"]
    assert found["deployed"][0]["by"] == "grace"


def test_chain_names_the_route(story: Story) -> None:
    """Which rollout sent the call there and how likely that was."""
    found = provenance(story)
    assert found["route"] == {
        "revision": 0,
        "rollout": "r1",
        "variant": "canary",
        "reason": "split",
        "probability": 0.2,
    }
    assert found["weights"] == []


def test_chain_names_weights(story: Story, tmp_path: Path) -> None:
    """The files that the answer was computed with, by their digests."""
    folder = write_model(tmp_path / "three")
    (folder / "layers.safetensors").write_bytes(save({"w": np.ones(3, dtype=np.float32)}))
    packed = pack(story.home, folder, model="signs")
    record = Record(
        id="one", kind="answered", time=time(), model="signs", version="3", bundle=packed.digest, status=200
    )
    found = chain(record, story.home, story.home.refs(), story.state)
    assert found is not None
    (one,) = found["weights"]
    assert one["path"] == "model/layers.safetensors"
    assert one["digest"] == f"sha256:{sha256((folder / 'layers.safetensors').read_bytes()).hexdigest()}"


def test_chain_tells_what_the_monitors_knew_then(story: Story) -> None:
    """An incident counts in the state in which it was when the answer was given, whatever became of it since."""
    document = story.state.get(f"incidents/{INCIDENT}")
    assert document is not None
    later = {"time": rfc3339(time() + 60), "state": "resolved", "actor": "monitor", "reason": "it went away"}
    body = document.body | {"state": "resolved", "history": [*document.body["history"], later]}
    story.state.commit(Change(document.key, body, document.revision))
    monitors = provenance(story)["monitors"]
    assert [(one["id"], one["state"]) for one in monitors["incidents"]] == [(INCIDENT, "open")]
    assert monitors["baseline"] == {"source": "bundle", "by": None, "reason": None, "time": None}


def test_chain_tells_no_baseline_that_came_later(story: Story) -> None:
    """A baseline that was decided before the answer is told with who decided it; one of later is not."""
    baseline = {"baseline": {"source": "live since then"}, "actor": "kim", "reason": "winter"}
    story.state.commit(Change("baselines/signs/2", baseline | {"time": rfc3339(time() - 60)}))
    then = provenance(story)["monitors"]["baseline"]
    assert (then["source"], then["by"], then["reason"]) == ("live since then", "kim", "winter")
    story.state.commit(Change("baselines/signs/2", baseline | {"time": rfc3339(time() + 60)}))
    assert provenance(story)["monitors"]["baseline"]["source"].startswith("unknown")
