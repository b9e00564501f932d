"""Content codings: gzip and deflate, of bodies that come and of answers that go.

What a body becomes is limited as what it is: inflating stops at the limit, whatever the bytes claim. All of it runs on
threads (`COMPRESSORS`), where zlib gives up the interpreter lock; the event loop answers others meanwhile.

`deflate` means the zlib format (RFC 9110, 8.4.1.2); the bare stream that some clients send under that name is taken as
well. An answer is compressed when the client asks for it and it does not fit the first ten packets of a connection,
which arrive in one round trip either way. Level 1 costs some 12 µs a KB of JSON and halves it; level 6 takes six times
that for a twentieth less.
"""

import zlib
from concurrent.futures import ThreadPoolExecutor

from gateway.errors import BadCall, TooLarge, Unsupported

COMPRESSORS = 2
"""Threads of a worker. More would take the processor from serving, which has one core a worker."""
COMPRESSED_BYTES_MIN = 14_600
"""Ten packets of 1,460 bytes (RFC 6928)."""
CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
GZIP_WINDOW, ZLIB_WINDOW, BARE_WINDOW = 31, 15, -15
LEVEL = 1
"""zlib's fastest."""


def compressors() -> ThreadPoolExecutor:
    """Make the threads of one worker; they start at their first use."""
    return ThreadPoolExecutor(COMPRESSORS, "compressor")


def content_coding(value: bytes) -> str | None:
    """Return the coding that a Content-Encoding header names, None for `identity`.

    Raises:
        Unsupported: any other, or several.

    >>> content_coding(b"GZIP"), content_coding(b"identity")
    ('gzip', None)
    """
    name = value.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return None
    if name not in CODINGS:
        raise Unsupported(f"Content-Encoding: {name[:64]}, expected gzip, deflate or none")
    return CODINGS[name]


def accepted_coding(value: bytes) -> str | None:
    """Return the coding that a client prefers by its Accept-Encoding header, None for the body as it is.

    Where two are as welcome, gzip comes before deflate, and either before none: a client that asks wants it.

    >>> accepted_coding(b"gzip, deflate"), accepted_coding(b"gzip;q=0.2, deflate;q=0.5"), accepted_coding(b"br")
    ('gzip', 'deflate', None)
    >>> accepted_coding(b"*"), accepted_coding(b"gzip;q=0"), accepted_coding(b"identity, gzip;q=0.5")
    ('gzip', None, None)
    """
    welcome: dict[str, float] = {}
    for part in value.decode("latin-1").lower().split(","):
        name, _, parameters = part.partition(";")
        welcome[CODINGS.get(name.strip(), name.strip())] = _quality(parameters)
    others = welcome.get("*", 0.0)
    gzip, deflate = welcome.get("gzip", others), welcome.get("deflate", others)
    best = max(gzip, deflate)
    if best <= 0 or best < welcome.get("identity", 0.0):
        return None
    return "gzip" if gzip == best else "deflate"


def _quality(parameters: str) -> float:
    """Read `q=0.5`; a weight that is none makes a coding unwelcome, which is always safe."""
    name, equals, value = parameters.strip().partition("=")
    if not equals or name.strip() != "q":
        return 1.0
    try:
        return min(1.0, float(value))
    except ValueError:
        return 0.0


def inflate(coding: str, body: bytes | bytearray, limit: int) -> bytes:
    """Return the plain body.

    Raises:
        BadCall: it is not what its coding says, ends too early, or has something behind it.
        TooLarge: more than `limit` bytes would come of it; no more than that are ever made.
    """
    if coding == "gzip":
        window = GZIP_WINDOW
    else:
        # RFC 1950: the method is 8, and the first two bytes are a multiple of 31.
        zlib_header = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        window = ZLIB_WINDOW if zlib_header else BARE_WINDOW
    inflater = zlib.decompressobj(window)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadCall(f"body: not {coding}: {error}") from None
    if len(plain) > limit:
        raise TooLarge(f"body: inflates to more than {limit} bytes ([server] max_body_bytes)")
    if not inflater.eof:
        raise BadCall(f"body: its {coding} stream ends too early, after {len(body)} bytes")
    if inflater.unused_data:
        raise BadCall(f"body: {len(inflater.unused_data)} bytes after its {coding} stream, expected one stream")
    return plain


def compress(coding: str, body: bytes) -> bytes:
    """Return the body in a coding."""
    compressor = zlib.compressobj(LEVEL, wbits=GZIP_WINDOW if coding == "gzip" else ZLIB_WINDOW)
    return compressor.compress(body) + compressor.flush()
