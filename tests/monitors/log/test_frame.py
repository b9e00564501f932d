import os
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from monitors.log import record as records
from monitors.log.frame import PREFIX, SALT_BYTES, Encoded, Frame, decode_start, encode_frame, erased_body, head_is_good
from tests.monitors.log.logbook import record

MARKER = b"12345678"
PREVIOUS = sha256(b"the frame before").digest()


def encoded(data: bytes = b"x") -> Encoded:
    """A record on its way into a frame."""
    made = record(data=data)
    return (*records.encode(made), records.id_milliseconds(made.id))


def opened(raw: bytes) -> Frame:
    """Decode a frame that begins at byte 0 of its segment."""
    start = decode_start(raw, 0, MARKER)
    assert start is not None
    head = raw[PREFIX.size : PREFIX.size + start.head_bytes]
    assert head_is_good(start, head)
    return Frame(start, head)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_a_frame_gives_back_its_records(tensors: list[bytes]) -> None:
    """Headers, bodies and numbers come back, and the frame ends where its bytes end."""
    raw, digest = encode_frame([encoded(data) for data in tensors], 41, PREVIOUS, MARKER)
    frame = opened(raw)
    assert (frame.start.end, frame.start.previous, frame.digest()) == (len(raw), PREVIOUS, digest)
    found = []
    for entry in frame.entries():
        body = raw[entry.body_offset : entry.body_offset + entry.body_bytes]
        assert entry.body_is_good(body)
        one = entry.record()
        entry.complete(one, body)
        assert one.payload is not None
        found.append((one.seq, one.payload.inputs[0].data))
    assert found == list(enumerate(tensors, 41))


def test_no_flipped_bit_goes_unnoticed() -> None:
    """Every byte of a frame is under its marker, its checksum or a body's digest."""
    raw, _digest = encode_frame([encoded(), encoded()], 0, PREVIOUS, MARKER)
    for position in range(len(raw)):
        altered = bytearray(raw)
        altered[position] ^= 1
        start = decode_start(bytes(altered), 0, MARKER)
        if start is None:
            continue
        head = bytes(altered[PREFIX.size : PREFIX.size + start.head_bytes])
        if not head_is_good(start, head):
            continue
        bodies = [
            entry.body_is_good(bytes(altered[entry.body_offset : entry.body_offset + entry.body_bytes]))
            for entry in Frame(start, head).entries()
        ]
        assert not all(bodies), f"byte {position}"


def test_the_same_payload_has_another_digest_each_time() -> None:
    """The salt keeps anybody from guessing at an erased payload by its digest."""
    same = encoded()
    frame = opened(encode_frame([same, same], 0, PREVIOUS, MARKER)[0])
    first, second = (entry.digest for entry in frame.entries())
    assert first != second


def test_an_erased_body_is_no_damage() -> None:
    """A body written over as erased leaves the record and the chain; zeros, as of a lost page, are damage."""
    raw, digest = encode_frame([encoded(os.urandom(50))], 0, PREVIOUS, MARKER)
    frame = opened(raw)
    (entry,) = frame.entries()
    erased = erased_body(entry.body_bytes)
    assert entry.body_is_good(erased)
    assert not entry.body_is_good(erased[:-1] + b"x")
    assert not entry.body_is_good(erased[:SALT_BYTES])
    assert not entry.body_is_good(bytes(entry.body_bytes))
    one = entry.record()
    entry.complete(one, erased)
    assert one.payload is None
    assert frame.digest() == digest
