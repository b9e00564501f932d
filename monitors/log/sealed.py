"""Sealed segments: the bytes of a closed segment, compressed in blocks, so that one record costs one block to read.

    sealed  := the segment's first 4096 bytes as they are, block*, index, trailer
    block   := zstd frame of the next `BLOCK_BYTES` bytes of the segment (the last one is shorter)
    index   := (end of the block in this file u64, smallest and largest id time u64 (ms) of the frames that begin in the
               block, offset in the segment of the first of them u64)*
    trailer := index offset u64, blocks u32, block bytes u32, end of the segment u64, crc32 of index and trailer so far
               u32, magic "SNOWSEAL"

Offsets in a sealed segment are those of the plain one, so cursors, frames, digests and the chain are the same. It lies
in the folder `sealed` of its writer. It is written beside, synced, renamed, and only then the plain file goes; while
both are there they are the same. A block that can't be decompressed reads as zeros, and so what is in it is found to be
damaged by the sums of the frames, like everything else.
"""

import os
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO
from zlib import crc32

from monitors.log.frame import FrameStart

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FOLDER = "sealed"
SUFFIX = ".segz"
MAGIC = b"SNOWSEAL"
PAGE_BYTES = 4096  # A segment's header and mark, which stay readable where they were.
BLOCK_BYTES = 128 * 1024
"""What a look-up decompresses at least: 0.2 ms. Blocks of twice the size save 1 %."""
LEVEL = 3
"""Level 9 saves 3 to 9 % more on images, and takes five times as long."""
INDEX = struct.Struct("<QQQQ")
TRAILER = struct.Struct("<QIIQI8s")
NOTHING = ((1 << 64) - 1, 0, 0)
"""What the index says of a block in which no frame begins: it holds the ids of no time."""
BLOCKS_KEPT = 4
"""Blocks that stay decompressed: a frame's head and its bodies lie in two or three, and readers go forwards."""


class SealedFile:
    """Reads a sealed segment by the offsets of the plain one."""

    def __init__(self, descriptor: int) -> None:
        """Raises ValueError: this is no sealed segment, or its index is damaged."""
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        trailer = os.pread(descriptor, TRAILER.size, max(0, size - TRAILER.size))
        if len(trailer) < TRAILER.size:
            raise ValueError("damaged trailer")
        offset, count, self._block_bytes, self.size, checksum, magic = TRAILER.unpack(trailer)
        index = os.pread(descriptor, INDEX.size * count, offset)
        if magic != MAGIC or crc32(index + trailer[: -len(MAGIC) - 4]) != checksum:
            raise ValueError("damaged index")
        self._index = list(INDEX.iter_unpack(index))
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def read(self, size: int, offset: int) -> bytes:
        """Read as `pread` reads the plain segment."""
        size = min(size, self.size - offset)
        parts = []
        while size > 0:
            if offset < PAGE_BYTES:
                part = os.pread(self._descriptor, min(size, PAGE_BYTES - offset), offset)
            else:
                number, within = divmod(offset - PAGE_BYTES, self._block_bytes)
                part = self._block(number)[within : within + size]
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def regions(self, milliseconds: int) -> Iterator[tuple[int, int]]:
        """Yield where frames begin that may hold ids of this time: offset of the first, and where to stop."""
        for number, (_end, first_ms, last_ms, offset) in enumerate(self._index):
            if first_ms <= milliseconds <= last_ms:
                yield offset, PAGE_BYTES + (number + 1) * self._block_bytes

    def _block(self, number: int) -> bytes:
        block = self._kept.get(number)
        if block is None:
            block = self._kept[number] = self._decompress(number)
            if len(self._kept) > BLOCKS_KEPT:
                self._kept.popitem(last=False)
        return block

    def _decompress(self, number: int) -> bytes:
        if not 0 <= number < len(self._index):
            return b""
        begin = PAGE_BYTES if number == 0 else self._index[number - 1][0]
        size = min(self._block_bytes, self.size - PAGE_BYTES - number * self._block_bytes)
        try:
            block = zstd.decompress(os.pread(self._descriptor, self._index[number][0] - begin, begin))
        except zstd.ZstdError:
            return bytes(size)
        return block if len(block) == size else bytes(size)


def write_sealed(file: BinaryIO, read: Callable[[int, int], bytes], end: int, starts: Iterable[FrameStart]) -> None:
    """Write the sealed form of a segment that `read(size, offset)` reads, up to `end`; `starts` are its frames'."""
    times = _times_by_block(starts)
    file.write(read(PAGE_BYTES, 0))
    compressor = zstd.ZstdCompressor(LEVEL)
    index = []
    for number, offset in enumerate(range(PAGE_BYTES, end, BLOCK_BYTES)):
        block = read(min(BLOCK_BYTES, end - offset), offset)
        file.write(compressor.compress(block, mode=compressor.FLUSH_FRAME))
        index.append(INDEX.pack(file.tell(), *times.get(number, NOTHING)))
    offset = file.tell()
    trailer = TRAILER.pack(offset, len(index), BLOCK_BYTES, end, 0, MAGIC)[: -len(MAGIC) - 4]
    written = b"".join(index)
    file.write(written + trailer + struct.pack("<I", crc32(written + trailer)) + MAGIC)


def _times_by_block(starts: Iterable[FrameStart]) -> dict[int, tuple[int, int, int]]:
    found: dict[int, tuple[int, int, int]] = {}
    for start in starts:
        number = (start.offset - PAGE_BYTES) // BLOCK_BYTES
        first_ms, last_ms, offset = found.get(number, (NOTHING[0], 0, start.offset))
        found[number] = (min(first_ms, start.first_ms), max(last_ms, start.last_ms), offset)
    return found
