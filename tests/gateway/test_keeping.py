"""What of a call is kept: samples that can be recomputed, redaction of names and of places in JSON."""

from collections.abc import Sequence

import orjson
import pytest

from bundles.schema import TensorSpec
from gateway.keeping import Keeping, is_kept
from gateway.protocol import elements
from gateway.schema import Schema
from gateway.settings import LogSettings, SettingsError
from monitors.log.record import Payload, Record, Tensor, encode, new_id

SECRET = "Ada Lovelace"


def json_tensor(name: str, documents: Sequence[object]) -> Tensor:
    """A BYTES tensor of JSON texts."""
    texts = [one if isinstance(one, bytes) else orjson.dumps(one) for one in documents]
    data = b"".join(len(one).to_bytes(4, "little") + one for one in texts)
    return Tensor(name, "BYTES", [len(texts)], data)


def record(**payload: object) -> Record:
    """A record of a call that was answered."""
    made = Payload(unit=SECRET, client_id="mine", **payload)  # type: ignore[arg-type]
    signals = {"class": [3]}
    return Record(id=new_id(0), kind="answered", time=0.0, model="m", status=200, signals=signals, payload=made)


def apply(one: Record, *json_inputs: str, **settings: object) -> Payload:
    """Apply the rule that settings make, and return what is kept."""
    keeping = Keeping.of(LogSettings.model_validate(settings))
    assert keeping is not None
    keeping.apply(one, frozenset(json_inputs))
    assert one.payload is not None
    return one.payload


def test_without_a_rule_there_is_nothing_to_do() -> None:
    """The default keeps all of it, and costs the request path one look."""
    assert Keeping.of(LogSettings()) is None


def test_redacted_tensors_keep_their_form() -> None:
    """On every side; name, datatype and shape stay, the others' bytes too, and the record says what was done."""
    given = [Tensor("image", "UINT8", [1, 3], b"abc"), Tensor("width", "UINT8", [1], b"w")]
    one = record(inputs=given, model_inputs=given[:1], outputs=[Tensor("y", "UINT8", [1], b"y")])
    payload = apply(one, redact_tensors=["image", "y"])
    image = Tensor("image", "UINT8", [1, 3], b"", None, "redacted")
    assert payload.inputs == [image, given[1]]
    assert payload.model_inputs == [image]
    assert payload.outputs == [Tensor("y", "UINT8", [1], b"", None, "redacted")]
    assert one.redactions == ["inputs.image", "outputs.y", "model_inputs.image"]
    assert given[0].data == b"abc", "the call's own tensors are still to be answered with"
    assert one.signals == {"class": [3]}


def test_redacted_parameters_and_words() -> None:
    """Values of named parameters go, and the words of an error, which may repeat what came."""
    given = {"session": SECRET, "threshold": 0.5}
    one = record(parameters=given, error=f"input 'x': {SECRET}, expected a number")
    payload = apply(one, redact_parameters=["session"], units="hashed")
    assert payload.parameters == {"session": "[redacted]", "threshold": 0.5}
    assert given["session"] == SECRET
    assert (payload.error, payload.unit, payload.client_id) == (None, None, "mine")
    assert one.redactions == ["error", "parameters.session"]
    assert SECRET.encode() not in b"".join(encode(one))


def test_places_in_json() -> None:
    """A path is taken out of each element of an input that is declared as JSON, and only of such."""
    people = [{"person": {"name": SECRET, "age": 36}}, {"other": 1}, {"person": {"name": [SECRET, {"of": SECRET}]}}]
    one = record(inputs=[json_tensor("request", people), json_tensor("plain", ["text"])])
    payload = apply(one, "request", redact_json=["$.person.name", "$..age"], units="hashed")
    kept = [orjson.loads(element) for element in elements(payload.inputs[0].data)]
    assert kept == [
        {"person": {"name": "[redacted]", "age": "[redacted]"}},
        {"other": 1},
        {"person": {"name": "[redacted]"}},
    ]
    assert payload.inputs[0].withheld == "redacted in part"
    assert payload.inputs[1].withheld is None
    assert one.redactions == ["inputs.request $.person.name", "inputs.request $..age"]
    assert SECRET.encode() not in b"".join(encode(one))


@pytest.mark.parametrize("path", ["$.a.b[*].c", "$['a']", "$..c", "$.a.b[1:]", "$.*"])
def test_any_path_of_the_standard(path: str) -> None:
    """Names, wildcards, slices and descendants (RFC 9535): what they mean is gone."""
    one = record(inputs=[json_tensor("request", [{"a": {"b": [{"c": 1}, {"c": SECRET}]}}])])
    apply(one, "request", redact_json=[path], units="hashed")
    assert SECRET.encode() not in b"".join(encode(one))


def test_json_is_what_the_bundle_declares() -> None:
    """An input is JSON when its content type says so, whatever its elements look like."""
    request = TensorSpec("request", "BYTES", (-1,), content_type="application/json")
    picture, text = TensorSpec("picture", "BYTES", (-1,), content_type="image/*"), TensorSpec("text", "BYTES", (-1,))
    assert Schema((request, picture, text), ()).json_inputs == {"request"}


def test_what_is_no_json_is_not_kept() -> None:
    """Nobody can say where in it the name stands: then all of it goes."""
    one = record(inputs=[json_tensor("request", [{"ok": 1}, b"{" + SECRET.encode()])])
    payload = apply(one, "request", redact_json=["$.name"], units="hashed")
    assert payload.inputs == [Tensor("request", "BYTES", [2], b"", None, "redacted")]
    assert SECRET.encode() not in b"".join(encode(one))


def test_a_sample_of_the_payloads() -> None:
    """A share of the predictions keeps tensors and parameters; which, their ids say. The record is never sampled."""
    states = {"kept": 0, "sampled out": 0}
    for number in range(2_000):
        one = record(inputs=[Tensor("x", "UINT8", [1], b"x")], parameters={"a": 1}, error="words")
        one.id = new_id(number * 10**9)
        payload = apply(one, payload_rate=0.25)
        kept = is_kept(one.id, one.payload_rate)
        assert one.payload_state == ("kept" if kept else "sampled out")
        assert (payload.inputs[0].data, payload.parameters) == ((b"x", {"a": 1}) if kept else (b"", {}))
        assert (payload.inputs[0].shape, payload.client_id, payload.error) == ([1], "mine", "words")
        states[one.payload_state] += 1
    assert 420 < states["kept"] < 580  # four standard deviations around 500


@pytest.mark.parametrize("path", ["name", "$", "person.name"])
def test_a_path_is_checked_with_the_settings(path: str) -> None:
    """What begins like no path is refused with the settings."""
    with pytest.raises(ValueError, match="pattern"):
        LogSettings.model_validate({"redact_json": [path]})


def test_a_wrong_path_is_named() -> None:
    """What begins like a path and is none is refused by name, before anything is served."""
    with pytest.raises(SettingsError, match=r"redact_json = '\$\.a\[':.*expected a path such as"):
        Keeping.of(LogSettings.model_validate({"redact_json": ["$.a["]}))
