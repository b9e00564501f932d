"""Replay: real bundles behind a real gateway, and records whose answers are not what their bundle says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time_ns
from typing import Any

import numpy as np
import pytest

from bundles.home import Home
from bundles.packing import Packed, pack
from gateway.replay import Replayer
from gateway.replay_verdicts import Logged, Verdict, compare, summary
from gateway.settings import Settings
from monitors.log.record import Payload, Record, Tensor, new_id
from state.sqlite import SqliteState
from tests.conftest import Gateway, snowgate, write_model
from tests.gateway.test_cli import run
from tests.monitors.log.logbook import Logbook

CONFIG = {
    "outputs": [{"name": "y", "datatype": "FP32"}, {"name": "half", "datatype": "BF16"}],
    "tolerance": {"absolute": 1e-6, "relative": 1e-3},
}
AROUND = """
loader = "python"
entrypoint = "words:Model"
holdout = "holdout.npz"
preprocess = "words:numbers"
postprocess = "words:name"
inputs = [{ name = "scan", datatype = "BYTES", shape = [-1], content_type = "application/json" }]
model_inputs = [{ name = "x", datatype = "FP32", shape = [-1, 2] }]
model_outputs = [{ name = "logits", datatype = "FP32", shape = [-1, 2], semantic = "logits" }]
outputs = [{ name = "word", datatype = "BYTES", shape = [-1] }]
"""
WORDS = """
import json

import numpy as np


class Model:
    def load(self, directory):
        pass

    def predict(self, inputs):
        return inputs["x"] * 2


def numbers(inputs):
    return {"x": np.array([json.loads(one)["at"] for one in inputs["scan"]], dtype=np.float32)}


def name(outputs):
    return np.where(outputs["logits"].argmax(axis=1) == 1, "right", "left")
"""
LONE = """
import os

class Model:
    def load(self, directory):
        pass

    def predict(self, inputs):
        if inputs["x"][0] == 666:
            os._exit(3)
        return {"y": inputs["x"][:2] * 2}
"""
LONE_RECIPE = """
loader = "python"
entrypoint = "lone:Model"
holdout = "holdout.npz"
inputs = [{ name = "x", datatype = "FP32", shape = [3] }]
outputs = [{ name = "y", datatype = "FP32", shape = [2], semantic = "value" }]
"""


def logged(**fields: Any) -> Record:
    """A record of something that was answered."""
    usual: dict[str, Any] = {
        "id": new_id(time_ns()),
        "kind": "answered",
        "time": time_ns() / 1e9,
        "model": "signs",
        "version": "1",
        "engine": "python",
        "status": 200,
    }
    return Record(**usual | fields)


def floats(name: str, values: Any) -> Tensor:
    """A tensor of 32-bit floats."""
    array = np.array(values, dtype="<f4")
    return Tensor(name, "FP32", list(array.shape), array.tobytes())


def answer(packed: Packed, x: list[float], y: list[float], **fields: Any) -> Record:
    """A record of one row."""
    payload = Payload(inputs=[floats("x", [x])], outputs=[floats("y", [y])])
    return logged(bundle=packed.digest, payload=payload, batch_size=1, **fields)


@pytest.fixture
def replayed(home: Home) -> Iterator[Callable[..., list[Verdict]]]:
    """Replay records with the home's own bundles."""
    state = SqliteState(home.state)

    def replay(*records: Record, other: str | None = None) -> list[Verdict]:
        with Replayer(home, state, Settings(), lambda _text: None, other) as work:
            found = {one.id: one for one in work.replay(records)}
        assert len(found) == len(records)
        return [found[record.id] for record in records]

    yield replay
    state.close()


def test_verdicts_by_what_differs() -> None:
    """Bits, the bundle's tolerance, another shape, another class: each has its verdict, the worst output decides."""
    record = logged(signals={"class": [1, 0], "energy": [0.5, 0.5]})
    y, half = np.array([[1.0], [2.0]], np.float32), np.array([0x3F80, 0x4000], np.uint16)
    before: Logged = {"y": ("FP32", y), "half": ("BF16", half)}
    same = compare(record, before, {"y": y, "half": half}, {"class": np.array([1, 0])}, CONFIG)
    assert (same.kind, same.difference, same.decisions, same.changed) == ("bitwise", 0.0, 2, [])
    near = compare(record, before, {"y": y * np.float32(1.0001), "half": half}, {}, CONFIG)
    assert (near.kind, near.output, near.decisions) == ("within tolerance", "y", 0)
    far = compare(record, before, {"y": y + 1, "half": half + 1}, {"class": np.array([1, 1])}, CONFIG)
    assert (far.kind, far.output, far.difference) == ("differs", "y", 1.0)
    assert far.changed == [{"row": 1, "signal": "class", "from": 0, "to": 1}]
    shape = compare(record, before, {"y": y.reshape(1, 2)}, {}, CONFIG)
    assert (shape.kind, shape.to_json()["difference"]) == ("differs", None)
    assert "another shape" in str(shape.reason)
    assert compare(record, before, {"z": y}, {}, CONFIG).kind == "not replayable"
    sums = summary([same, near, far, shape])
    assert [sums[name] for name in ("predictions", "bitwise", "within_tolerance", "differs")] == [4, 1, 1, 2]
    assert (sums["decisions"], sums["decisions_changed"]) == (4, 1)


def test_nothing_is_the_same_as_nothing_and_text_is_text() -> None:
    """What is not a number is bitwise the same as itself; text agrees when it is equal, and is no number."""
    nothing = np.array([np.nan, np.inf], np.float32)
    record = logged()
    assert compare(record, {"y": ("FP32", nothing)}, {"y": nothing.copy()}, {}, CONFIG).kind == "bitwise"
    text = np.array([b"snow"], dtype=object)
    assert compare(record, {"y": ("BYTES", text)}, {"y": text.copy()}, {}, CONFIG).kind == "bitwise"
    assert (
        compare(record, {"y": ("BYTES", text)}, {"y": np.array([b"sun"], dtype=object)}, {}, CONFIG).kind == "differs"
    )
    assert compare(record, {"y": ("BYTES", text)}, {"y": nothing[:1]}, {}, CONFIG).kind == "differs"


def test_answers_that_are_not_what_the_bundle_says(packed: Packed, replayed: Callable[..., list[Verdict]]) -> None:
    """An altered answer differs by how much and in which class; a rounding error is within the bundle's tolerance."""
    near = float(np.nextafter(np.float32(6), np.float32(7)))
    right, rounded, wrong = replayed(
        answer(packed, [1, 2, 3], [6, -6], signals={"class": [0]}),
        answer(packed, [1, 2, 3], [near, -6], signals={"class": [0]}),
        answer(packed, [1, 2, 3], [-6, 6], signals={"class": [1]}),
    )
    assert (right.kind, right.difference, right.changed) == ("bitwise", 0.0, [])
    assert (rounded.kind, rounded.output) == ("within tolerance", "y")
    assert (wrong.kind, wrong.difference) == ("differs", 12.0)
    assert wrong.changed == [{"row": 0, "signal": "class", "from": 1, "to": 0}]


def test_what_can_not_be_asked_again_says_why(packed: Packed, replayed: Callable[..., list[Verdict]]) -> None:
    """Refused, erased, without inputs, a bundle that is gone, inputs that are no longer taken: each with its reason."""
    inputs, outputs = [floats("x", [[1, 2, 3]])], [floats("y", [[6, -6]])]
    redacted = Tensor("x", "FP32", [1, 3], b"", withheld="redacted")
    verdicts = replayed(
        logged(kind="refused", status=400, payload=Payload(error="no")),
        logged(bundle=packed.digest),
        logged(bundle=packed.digest, payload=Payload(outputs=outputs)),
        logged(bundle=packed.digest, payload=Payload(inputs=inputs)),
        logged(bundle="sha256:" + "0" * 64, payload=Payload(inputs=inputs, outputs=outputs)),
        logged(bundle=packed.digest, payload=Payload(inputs=[floats("z", [[1]])], outputs=outputs)),
        logged(bundle=packed.digest, payload=Payload(inputs=[redacted], outputs=outputs)),
        answer(packed, [2000, 0, 0], [2000, -2000]),
    )
    assert [one.kind for one in verdicts] == ["not replayable"] * 7 + ["differs"]
    words = ("status 400", "payload", "inputs", "outputs", "sha256:000", "does not take it", "redacted", "than 1000")
    for verdict, word in zip(verdicts, words, strict=True):
        assert word in str(verdict.reason)


def test_an_engine_that_is_not_here_is_the_reason(home: Home, tmp_path: Path, replayed: Callable[..., Any]) -> None:
    """What answered by an engine that can't run here is not replayed by another one."""
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    folder = tmp_path / "lines"
    folder.mkdir()
    recipe = LONE_RECIPE.replace("python", "torch").replace("lone:Model", "lines:build")
    recipe = recipe.replace("[3]", "[-1, 3]").replace("[2]", "[-1, 2]") + 'weights = "lines.safetensors"\n'
    (folder / "bundle.toml").write_text(recipe)
    (folder / "lines.py").write_text("import torch\n\n\ndef build():\n    return torch.nn.Linear(3, 2)\n")
    line = torch.nn.Linear(3, 2)
    save_file(line.state_dict(), folder / "lines.safetensors")
    np.savez(folder / "holdout.npz", x=np.random.default_rng(3).normal(size=(64, 3)).astype(np.float32))
    packed = pack(home, folder, model="lines")
    with torch.inference_mode():
        said = line(torch.tensor([[1.0, 2.0, 3.0]])).tolist()[0]
    here, elsewhere = replayed(
        answer(packed, [1, 2, 3], said, engine="eager"), answer(packed, [1, 2, 3], said, engine="abacus")
    )
    assert here.kind in ("bitwise", "within tolerance")
    assert elsewhere.kind == "not replayable"
    assert "engine 'abacus'" in str(elsewhere.reason)


def test_a_death_costs_only_its_batch(home: Home, tmp_path: Path, replayed: Callable[..., list[Verdict]]) -> None:
    """A model that dies of one input answers the others, through a runner that is started anew; one row a call."""
    folder = tmp_path / "lone"
    folder.mkdir()
    (folder / "bundle.toml").write_text(LONE_RECIPE)
    (folder / "lone.py").write_text(LONE)
    np.savez(folder / "holdout.npz", x=np.random.default_rng(3).normal(size=(64, 3)).astype(np.float32))
    packed = pack(home, folder, model="lone")
    records = [
        logged(
            bundle=packed.digest,
            payload=Payload(inputs=[floats("x", [first, 2, 3])], outputs=[floats("y", [first * 2, 4])]),
        )
        for first in (1, 5)
    ]
    assert [one.kind for one in replayed(*records)] == ["bitwise", "bitwise"]
    killer = logged(
        bundle=packed.digest, payload=Payload(inputs=[floats("x", [666, 2, 3])], outputs=[floats("y", [0, 0])])
    )
    (died,) = replayed(killer)
    assert died.kind == "not replayable"
    assert "ended with status 3" in str(died.reason)


def infer(gateway: Gateway, values: list[list[float]], model: str = "signs") -> str:
    """Ask for some rows, and return the prediction's id."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(values), 3], "data": values}
    status, document, headers = gateway.post(f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}).encode())
    assert status == 200, document
    return str(headers["Snowgate-Prediction-Id"])


def test_last_weeks_traffic_again(
    capsys: pytest.CaptureFixture[str], home: Home, packed: Packed, tmp_path: Path, start: Callable[..., Gateway]
) -> None:
    """Beside a gateway that serves on, its answers are bitwise the same; candidates change all decisions, or none."""
    pack(home, write_model(tmp_path / "two", sign=-1.0), model="signs")
    pack(home, write_model(tmp_path / "three", sign=2.0), model="signs")
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    chance = np.random.default_rng(5)
    ids = [infer(gateway, chance.normal(size=(1 + number % 3, 3)).tolist()) for number in range(30)]
    done = snowgate(home.path, "prediction", "replay", "--since", "1h")
    assert (done["predictions"], done["bitwise"], done["differs"]) == (30, 30, 0)
    assert (done["decisions"], done["decisions_changed"]) == (60, 0)
    assert [one["id"] for one in done["verdicts"]] == sorted(ids)
    [runner] = done["runners"]
    assert (runner["engine"], runner["bundle"]) == ("python", packed.digest)
    assert "reproduced" in runner["golden"]
    [one] = snowgate(home.path, "prediction", "replay", ids[7])["verdicts"]
    assert (one["id"], one["verdict"]) == (ids[7], "bitwise")
    turned = snowgate(home.path, "prediction", "replay", "--since", "1h", "--bundle", "signs@2", status=1)
    assert (turned["decisions_changed"], turned["differs"]) == (60, 30)
    louder = snowgate(home.path, "prediction", "replay", "--since", "1h", "--bundle", "signs@3", "--limit", "10")
    assert (louder["predictions"], louder["decisions_changed"], louder["differs"]) == (10, 0, 10)
    future = snowgate(home.path, "prediction", "replay", "--since", "1h", "--until", "30m")
    assert (future["predictions"], future["runners"]) == (0, [])
    code, out, _err = run(capsys, "prediction", "replay", ids[0], "--home", str(home.path))
    assert code == 0
    assert "bitwise" in out
    assert "golden examples are reproduced" in out
    _code, out, _err = run(capsys, "prediction", "show", ids[0], "--home", str(home.path))
    assert f"snowgate prediction replay {ids[0]}" in out
    assert infer(gateway, [[1, 2, 3]])


def test_json_through_the_bundles_own_functions(home: Home, tmp_path: Path, start: Callable[..., Gateway]) -> None:
    """What is replayed is what came, before `preprocess`; what is compared is what was answered."""
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "bundle.toml").write_text(AROUND)
    (folder / "words.py").write_text(WORDS)
    rows = np.array([json.dumps({"at": [number % 7, number % 5]}).encode() for number in range(64)], dtype=object)
    np.savez(folder / "holdout.npz", scan=rows.astype(bytes))
    pack(home, folder, model="words")
    snowgate(home.path, "deploy", "words@1")
    gateway = start(home.path)
    body = json.dumps({"at": [1, 2]}).encode()
    status, document, _headers = gateway.post("/v1/models/words:predict", b'{"instances": [%b]}' % body)
    assert (status, document["predictions"]) == (200, ["right"])
    done = snowgate(home.path, "prediction", "replay", "--since", "1h")
    assert (done["predictions"], done["bitwise"], done["decisions"]) == (1, 1, 1)


def test_many_predictions_are_asked_in_batches_like_theirs(
    packed: Packed, home: Home, replayed: Callable[..., list[Verdict]], tmp_path: Path
) -> None:
    """More than one part, rows of several counts, from the log: each gets a verdict, and all are the same."""
    chance = np.random.default_rng(6)
    records = []
    for number in range(1_500):
        x = chance.normal(size=(1 + number % 4, 3)).astype(np.float32)
        total = x.sum(axis=1)
        payload = Payload(inputs=[floats("x", x)], outputs=[floats("y", np.stack([total, -total], axis=1))])
        records.append(
            logged(bundle=packed.digest, rows=len(x), batch_size=1 + number % 9, payload=payload, signals={})
        )
    book = Logbook(home.log)
    book.write(records)
    book.close()
    assert {one.kind for one in replayed(*records)} == {"bitwise"}
    done = snowgate(home.path, "prediction", "replay", "--since", "1h", "--limit", "1200")
    assert (done["predictions"], done["bitwise"]) == (1_200, 1_200)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "expected the ids of predictions, or --since"),
        (("--since", "yesterday"), 2, "expected such as"),
        (("x", "--since", "1h"), 2, "expected the ids"),
        (("x",), 1, "expected a UUID"),
        ((new_id(10**18),), 1, "not in the log"),
        (("--since", "1h", "--bundle", "signs@9"), 1, "versions of signs"),
    ],
)
def test_a_wrong_replay_is_a_sentence(
    capsys: pytest.CaptureFixture[str],
    home: Home,
    packed: Packed,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    """Each way to type it wrong is answered by what was expected."""
    found, _out, err = run(capsys, "prediction", "replay", "--home", str(home.path), *arguments)
    assert (found, words in err) == (code, True), err
