import json
from pathlib import Path

import numpy as np
import pytest

from load_tests.comparison.models import Model, oip_answer, oip_binary, oip_json, write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The two models, written to a folder."""
    return write_models(tmp_path_factory.mktemp("models"))


def test_weights_are_the_same_every_time(models: dict[str, Model], tmp_path: Path) -> None:
    """Whoever writes the models gets the same answers for the same rows, to the last bit."""
    again = write_models(tmp_path)
    for name, model in models.items():
        assert np.array_equal(model.expected, again[name].expected), name
        assert len({row.tobytes() for row in model.expected}) == len(model.rows), "rows mixed up would not show"


def test_both_bodies_say_the_same_numbers(models: dict[str, Model]) -> None:
    """JSON with six decimals, parsed to float32, is bit for bit what the binary body holds."""
    for model in models.values():
        row = model.rows[:1]
        parsed = np.array(json.loads(oip_json(row)[0])["inputs"][0]["data"], dtype=np.float32).reshape(row.shape)
        content, headers = oip_binary(row)
        length = int(headers["Inference-Header-Content-Length"])
        assert json.loads(content[:length])["inputs"][0]["parameters"]["binary_data_size"] == len(content) - length
        assert np.array_equal(parsed, row)
        assert content[length:] == row.tobytes()


def test_answers_are_read_in_both_forms() -> None:
    """Logits come out of JSON and of binary answers, other outputs left aside."""
    logits = np.array([[0.5, -1.5]], dtype=np.float32)
    output = {"name": "logits", "shape": [1, 2], "datatype": "FP32"}
    other = {"name": "class", "shape": [1], "datatype": "INT64", "data": [0]}
    plain = json.dumps({"outputs": [other, output | {"data": [0.5, -1.5]}]}).encode()
    assert np.array_equal(oip_answer(plain, None), logits)
    header = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": 8}}]}).encode()
    assert np.array_equal(oip_answer(header + logits.tobytes(), len(header)), logits)
