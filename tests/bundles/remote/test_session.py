"""What a registry may say that is not so: one clear error each, and nothing half-written."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from bundles.errors import BundleError, CorruptBundle, RemoteError, RemoteUnavailable, UnknownReference
from bundles.home import Home
from bundles.remote import session
from bundles.remote.credentials import Credentials
from tests.bundles.portable import check_nothing_half_written
from tests.bundles.remote.registries import REPOSITORY, Handler, SmallRegistry, fetch, place, send

ANA = Credentials("ana", "hush hush")


@pytest.fixture
def lying(small_registry: SmallRegistry, sender: tuple[Home, str]) -> SmallRegistry:
    """The small registry with the bundle in it, and nothing said yet."""
    send(*sender, place(small_registry.host))
    small_registry.seen.clear()
    return small_registry


def weights(sender: tuple[Home, str]) -> str:
    """Return the digest of the largest file."""
    return sender[0].store().manifest(sender[1]).layers[0].digest


def endless(handler: Handler) -> bool:
    """Send bytes until the other side has had enough."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    try:
        for _mebibyte in range(1000):
            handler.wfile.write(b"x" * 1024 * 1024)
    except OSError:
        return True
    pytest.fail("a gigabyte was read")


def cut(handler: Handler) -> bool:
    """Promise a whole file and close the connection after three bytes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "7")
    handler.end_headers()
    handler.wfile.write(b"wei")
    handler.close_connection = True
    return True


BLOB = r"GET .*/blobs/"
TAG = r"GET .*/manifests/1$"
MANIFEST = r"GET .*/manifests/sha256:"
LIES: list[tuple[str, str, Callable[[Handler], bool], type[BundleError], str]] = [
    ("other bytes", BLOB, lambda one: one.answer(200, b"WEIGHTS"), CorruptBundle, "arrived altered|is to have"),
    ("too long", BLOB, lambda one: one.answer(200, b"weights and more"), CorruptBundle, "is to have .* sends 16"),
    ("too short", BLOB, lambda one: one.answer(200, b"w"), CorruptBundle, "is to have .* sends 1"),
    ("no end", BLOB, endless, CorruptBundle, "has more than .* bytes"),
    ("cut off", f"{BLOB}sha256:9a129", cut, RemoteUnavailable, "broke off"),
    (
        "compressed",
        BLOB,
        lambda one: one.answer(200, b"\x1f\x8b" + b"0" * 5, Content_Encoding="gzip"),
        CorruptBundle,
        "altered|is to have",
    ),
    ("tag without end", TAG, endless, RemoteError, "more than 4194304 bytes"),
    ("manifest without end", MANIFEST, endless, RemoteError, "more than 4194304 bytes"),
    ("another manifest", MANIFEST, lambda one: one.answer(200, b"{}"), CorruptBundle, "not what was asked for"),
    (
        "another digest",
        TAG,
        lambda one: one.answer(200, b"{}", Docker_Content_Digest="sha256:0"),
        CorruptBundle,
        "header",
    ),
    ("no JSON", "GET .*/referrers/", lambda one: one.answer(200, b"<html>"), CorruptBundle, "index.json"),
    ("deep JSON", "GET .*/referrers/", lambda one: one.answer(200, b'{"a":' * 100_000), CorruptBundle, "index.json"),
    ("not there", TAG, lambda one: one.answer(404), UnknownReference, "no such tag; there are: 1"),
    ("blob lost", BLOB, lambda one: one.answer(404), UnknownReference, "blobs/sha256:.*not there"),
    (
        "who are you",
        TAG,
        lambda one: one.answer(401),
        RemoteError,
        "not allowed .401.*docker login.*SNOWGATE_REGISTRY_USER",
    ),
    ("forbidden", BLOB, lambda one: one.answer(403), RemoteError, "not allowed .403."),
    ("teapot", BLOB, lambda one: one.answer(418, b'{"errors": [{"message": "\x1b[2J"}]}'), RemoteError, r"418"),
    ("busy", BLOB, lambda one: one.answer(429, Retry_After="1"), RemoteUnavailable, "answered 429"),
    ("broken", BLOB, lambda one: one.answer(500), RemoteUnavailable, "answered 500"),
    ("round and round", BLOB, lambda one: one.answer(307, Location=one.path), RemoteError, "redirects again and again"),
    (
        "to http",
        BLOB,
        lambda one: one.answer(307, Location="http://192.0.2.1/x"),
        RemoteError,
        "expected an https address",
    ),
    ("to a file", BLOB, lambda one: one.answer(307, Location="file:///etc/passwd"), RemoteError, "expected an https"),
    ("no HTTP", BLOB, lambda one: bool(one.wfile.write(b"SSH-2.0\r\n")), RemoteUnavailable, "can't be reached"),
]


@pytest.mark.parametrize(("where", "how", "error", "said"), [one[1:] for one in LIES], ids=[one[0] for one in LIES])
def test_a_lie_is_an_error_and_nothing_is_half_written(
    lying: SmallRegistry, receiver: Home, where: str, how: Any, error: type[BundleError], said: str
) -> None:
    """Whatever a registry sends that is not so, one error says what; the home names nothing, and nothing is torn."""
    lying.lie(where, how)
    with pytest.raises(error, match=said) as caught:
        fetch(receiver, place(lying.host))
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
    check_nothing_half_written(receiver)
    lying.lies.clear()
    assert fetch(receiver, place(lying.host)) == "1", "and when it tells the truth again, all is well"


def test_a_broken_connection_goes_on_where_it_broke(
    lying: SmallRegistry, sender: tuple[Home, str], receiver: Home
) -> None:
    """The bytes that came are kept and the rest is asked for; a server that knows no ranges may send all again."""
    digest = weights(sender)
    lying.lie(f"{BLOB}{digest}", cut, times=2)
    assert fetch(receiver, place(lying.host), waits=(0, 0, 0)) == "1"
    assert [one.get("Range") for one in lying.asked(f"{BLOB}{digest}")] == [None, "bytes=3-", "bytes=3-"]
    receiver.store().verify(sender[1])


def test_a_server_that_does_not_get_better_is_asked_a_few_times(lying: SmallRegistry, receiver: Home) -> None:
    """Retries are bounded, and the last error is told."""
    lying.lie(TAG, lambda one: one.answer(503))
    with pytest.raises(RemoteUnavailable, match="503"):
        fetch(receiver, place(lying.host, waits=(0, 0)))
    assert len(lying.asked(TAG)) == 3
    lying.lies.clear()
    lying.lie(TAG, lambda one: one.answer(429), times=2)
    assert fetch(receiver, place(lying.host, waits=(0, 0))) == "1"


def test_nobody_there_is_one_sentence(receiver: Home, small_registry: SmallRegistry) -> None:
    """A registry that does not listen is named, with what is wrong."""
    small_registry.close()
    with pytest.raises(RemoteUnavailable, match=f"{small_registry.host}: can't be reached: .*refused"):
        fetch(receiver, place(small_registry.host))


def test_a_body_that_trickles_is_given_up(
    lying: SmallRegistry, receiver: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then keeps no pull waiting for ever, though no read times out."""
    monkeypatch.setattr(session, "BODY_SECONDS", 0.2)

    def trickle(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(b"{")
        except OSError:
            return True

    lying.lie(r"GET .*/tags/list", trickle)
    with pytest.raises(RemoteError, match=r"slower than|more than"):
        place(lying.host).tags()


def test_credentials_never_follow_a_redirect(lying: SmallRegistry, receiver: Home) -> None:
    """A registry may keep its blobs elsewhere; who keeps them learns nothing of who asks."""
    other = SmallRegistry()
    other.blobs = lying.blobs
    try:
        asks = 'Basic realm="here"'
        lying.lie(".", lambda one: "Authorization" not in one.headers and one.answer(401, WWW_Authenticate=asks))
        lying.lie(BLOB, lambda one: one.answer(307, Location=f"http://{other.host}{one.path}"))
        assert fetch(receiver, place(lying.host, ANA)) == "1"
        assert lying.seen[-1][1]["Authorization"] == ANA.basic()
        assert len(other.seen) == 7
        assert not any("Authorization" in headers for _line, headers in other.seen)
    finally:
        other.close()


def test_a_token_is_fetched_with_the_credentials(lying: SmallRegistry, receiver: Home) -> None:
    """As docker's registries want it: the token server gets the password, the registry the token."""
    asks = f'Bearer realm="http://{lying.host}/token",service="reg"'
    held = "Bearer t0ken"
    lying.lie("GET /token", lambda one: one.answer(200, b'{"token": "t0ken"}'))
    lying.lie("/v2/", lambda one: one.headers.get("Authorization") != held and one.answer(401, WWW_Authenticate=asks))
    assert fetch(receiver, place(lying.host, ANA)) == "1"
    (headers,) = lying.asked("GET /token")
    assert headers["Authorization"] == ANA.basic()
    assert f"scope=repository%3A{REPOSITORY.replace('/', '%2F')}%3Apull%2Cpush" in lying.seen[1][0]


@pytest.mark.parametrize(
    ("realm", "answer", "said"),
    [
        ("http://192.0.2.1/token", b"", "token server at .*expected an https address"),
        (None, b'{"token": "a\\r\\nX-Evil: 1"}', "is no token"),
        (None, b"[]", "is no token"),
        (None, b'{"token": 7}', "is no token"),
    ],
)
def test_a_token_server_may_lie_too(
    lying: SmallRegistry, receiver: Home, realm: str | None, answer: bytes, said: str
) -> None:
    """Credentials leave in plain text to no other machine, and what is no token is not sent on."""
    asks = f'Bearer realm="{realm or f"http://{lying.host}/token"}",service="reg"'
    lying.lie("GET /token", lambda one: one.answer(200, answer))
    lying.lie("/v2/", lambda one: one.answer(401, WWW_Authenticate=asks))
    with pytest.raises(RemoteError, match=said) as caught:
        fetch(receiver, place(lying.host, ANA))
    assert "hush" not in str(caught.value)


def test_an_upload_goes_nowhere_else(small_registry: SmallRegistry, sender: tuple[Home, str]) -> None:
    """A registry that sends the upload to another host gets an error, not our bytes; nothing got a name there."""
    small_registry.lie("POST", lambda one: one.answer(202, Location="http://127.0.0.2:1/elsewhere"))
    with pytest.raises(RemoteError, match=r"sends the upload to 'http://127\.0\.0\.2:1/elsewhere'"):
        send(*sender, place(small_registry.host))
    assert small_registry.tags == {}


def test_an_upload_that_broke_is_sent_again(small_registry: SmallRegistry, sender: tuple[Home, str]) -> None:
    """A blob whose upload failed once is read and sent from its beginning, with its length said."""
    small_registry.lie("PUT .*/blobs/", lambda one: one.answer(502), times=1)
    send(*sender, place(small_registry.host, waits=(0,)))
    puts = small_registry.asked("PUT .*/blobs/")
    assert len(puts) == 8
    assert all("Content-Length" in one and "Transfer-Encoding" not in one for one in puts)
    assert json.loads(small_registry.blobs[small_registry.tags["1"]])["layers"]
