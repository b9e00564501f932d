"""What a disk may hold after a crash, made from the calls of a process: all that was synced, and of the rest any part.

The calls come from strace. A write that was not synced may be there, be missing, or be there in some of its sectors,
each write for itself, so later ones may be there without earlier ones. Names change in their order, but any number of
the last changes may be missing until their folder was synced. File systems keep more order; nobody may rely on it.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
CALLS = "openat,pwrite64,fdatasync,fsync,rename,unlink,ftruncate,write"
LINE = re.compile(r"(?P<pid>\d+) +(?:(?P<call>\w+)\((?P<arguments>.*?)|<\.\.\. \w+ resumed>.*?)"
                  r"(?: <unfinished \.\.\.>|\) += (?P<result>-?\d+).*)$")  # fmt: skip
TEXT = re.compile(r'<((?:\\x[0-9a-f]{2})*)>|"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the kernel: its words are the paths and texts among its arguments, its numbers the plain ones."""

    name: str
    words: list[bytes]
    numbers: list[int]
    flags: str


@dataclass(slots=True)
class File:
    """A file's content as far as it is certain, and what was written since: data at an offset; None sets the size."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[tuple[bytes | None, int]] = field(default_factory=list)

    def sync(self, count: int) -> None:
        """Make the oldest pending writes certain."""
        for data, offset in self.pending[:count]:
            put(self.content, data, offset)
        del self.pending[:count]

    def after(self, chance: random.Random) -> bytes:
        """Return what may be there after a crash."""
        content = bytearray(self.content)
        for data, offset in self.pending:
            fate = chance.choice(["there", "missing", "torn"])
            if fate == "there" or (fate == "torn" and data is None):
                put(content, data, offset)
            elif fate == "torn" and data is not None:
                for start in range(offset - offset % SECTOR_BYTES, offset + len(data), SECTOR_BYTES):
                    low, high = max(start - offset, 0), start + SECTOR_BYTES - offset
                    if chance.random() < 0.5:
                        put(content, data[low:high], offset + low)
        return bytes(content)


def put(content: bytearray, data: bytes | None, offset: int) -> None:
    """Write data at an offset, or cut or extend the content to it."""
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(offset + len(data) - len(content), 0)))
    content[offset : offset + len(data)] = data


class Disk:
    """The files of one folder, as a process left them call by call. `told` is what it has written to its output."""

    def __init__(self, folder: Path, *, syncs: bool = True) -> None:
        """Without `syncs`, those that the process made count for nothing."""
        self.told = b""
        self._folder = folder
        self._syncs = syncs
        self._names: dict[str, File] = {}
        self._certain: dict[str, File] = {}
        self._changes: list[Callable[[dict[str, File]], object]] = []

    def begin(self, call: Call) -> Callable[[], None]:
        """Take a call as it begins; what is returned is to be done when it ends."""
        if call.name == "write":
            if len(call.numbers) > 1 and call.numbers[0] == 1:
                self.told += call.words[-1]
        elif call.name in {"fsync", "fdatasync"} and self._syncs:
            return self._sync(Path(call.words[0].decode()))
        else:
            self._change(call)
        return lambda: None

    def _sync(self, path: Path) -> Callable[[], None]:
        file, names = self._names.get(path.name), len(self._changes)
        if path == self._folder:
            return lambda: self._settle(names)
        count = 0 if file is None or path.parent != self._folder else len(file.pending)
        return lambda: file.sync(count) if file is not None else None

    def _settle(self, count: int) -> None:
        for change in self._changes[:count]:
            change(self._certain)
        del self._changes[:count]

    def _change(self, call: Call) -> None:
        paths = [Path(word.decode(errors="replace")) for word in call.words[: 2 if call.name == "rename" else 1]]
        if call.name == "openat":
            paths = [Path(call.words[-1].decode())]
        if not paths or paths[0].parent != self._folder:
            return
        name = paths[0].name
        if call.name == "openat" and "O_CREAT" in call.flags and name not in self._names:
            made = File()
            self._rename(lambda names: names.update({name: made}))
        elif call.name == "rename":
            moved = self._names[name]
            self._rename(lambda names: (names.pop(name, None), names.update({paths[1].name: moved})))
        elif call.name == "unlink":
            self._rename(lambda names: names.pop(name, None))
        elif call.name == "pwrite64":
            self._names[name].pending.append((call.words[1], call.numbers[-1]))
        elif call.name == "ftruncate":
            self._names[name].pending.append((None, call.numbers[-1]))

    def _rename(self, change: Callable[[dict[str, File]], object]) -> None:
        change(self._names)
        self._changes.append(change)

    def write(self, folder: Path, chance: random.Random) -> None:
        """Write to a folder what may be there after a crash at this moment."""
        names = dict(self._certain)
        for change in self._changes[: chance.randint(0, len(self._changes))]:
            change(names)
        for name, file in names.items():
            (folder / name).write_bytes(file.after(chance))


def calls(trace: Path) -> Iterator[tuple[Call, bool, bool]]:
    """Read a trace of `strace -f -y -xx`: each call, whether it begins here, and whether it ends well here."""
    begun: dict[str, Call] = {}
    for line in trace.read_text().splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        if found["call"] is not None:
            words = [
                bytes.fromhex((path or text).replace("\\x", "")) for path, text in TEXT.findall(found["arguments"])
            ]
            rest = TEXT.sub("", found["arguments"])
            call = Call(found["call"], words, [int(one) for one in re.findall(r"(?<!\w)-?\d+", rest)], rest)
            if found["result"] is None:
                begun[found["pid"]] = call
                yield call, True, False
            elif int(found["result"]) >= 0:
                yield call, True, True
        elif found["pid"] in begun:
            yield begun.pop(found["pid"]), False, int(found["result"]) >= 0
