import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.log import record as records
from monitors.log.record import id_milliseconds, new_id
from tests.monitors.log.logbook import record


def test_header_and_payload_come_back_as_they_were() -> None:
    """Encoding splits a record in two, and both halves together are the record."""
    made = record()
    header, payload = records.encode(made)
    back = records.decode(header)
    assert back.payload is None
    back.payload = records.decode_payload(payload)
    assert back == made


def test_the_header_says_nothing_of_who_asked_what() -> None:
    """Unit and tensors are in the payload only, which can be erased."""
    header, payload = records.encode(record(data=b"secret tensor"))
    assert b"camera" not in header
    assert b"secret" not in header
    assert b"camera" in payload


def test_encoding_leaves_the_record_alone() -> None:
    """The one who appended a record may look at its payload meanwhile."""
    made = record()
    records.encode(made)
    assert made.payload is not None


def test_the_schema_is_on_disk() -> None:
    """A record says by which schema it was written, though that is the default."""
    header, _payload = records.encode(record())
    assert msgspec.msgpack.decode(header)["schema"] == records.SCHEMA


@given(st.integers(0, 2**40), st.integers(0, 10**9))
def test_an_id_is_a_uuid7_that_tells_its_time(milliseconds: int, later_ns: int) -> None:
    """Any UUID library reads it as version 7, and ids of later nanoseconds never sort before."""
    now = milliseconds * 1_000_000
    one = new_id(now)
    parsed = uuid.UUID(one)
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, one)
    assert id_milliseconds(one) == milliseconds
    assert new_id(now + 1_000 + later_ns) > one


@pytest.mark.parametrize("text", ["", "7", "not an id", "0b6c1f9a-52d7-4c3e-9f41-7d2e8a60b915", "018bcfe5687b774c" * 3])
def test_what_is_no_prediction_id_is_refused(text: str) -> None:
    """The error says what an id looks like."""
    with pytest.raises(ValueError, match="UUID of version 7"):
        id_milliseconds(text)
