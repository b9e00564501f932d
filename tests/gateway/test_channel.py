"""The line between control and a child, whatever the other side dies of."""

import asyncio
import socket

from gateway.channel import Channel


async def _heard(sent: bytes, *, unread: bool) -> list[object]:
    """Return what one end hears when the other sends some bytes and dies, perhaps with something of ours unread."""
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours)
    if unread:
        channel.send({"table": 1})
        await asyncio.sleep(0)
    theirs.sendall(sent)
    theirs.close()
    heard: list[object] = [message async for message in channel.messages()]
    channel.close()
    return heard


def test_whole_lines_are_heard() -> None:
    """Messages arrive in order, and the other side's end is the end."""
    assert asyncio.run(_heard(b'{"a":1}\n{"b":2}\n', unread=False)) == [{"a": 1}, {"b": 2}]


def test_a_line_that_was_cut_is_no_message() -> None:
    """A child that is killed in the middle of a line says nothing with it."""
    assert asyncio.run(_heard(b'{"a":1}\n{"b"', unread=False)) == [{"a": 1}]


def test_a_child_that_dies_with_our_words_unread_is_just_gone() -> None:
    """The kernel reports that as a reset connection; it is an end like any other."""
    assert asyncio.run(_heard(b"", unread=True)) == []
