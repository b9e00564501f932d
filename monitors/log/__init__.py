"""The prediction log: everything that was answered or refused, on disk before the answer left.

Each writer (a worker process) has a folder of segment files, `<writer>/<number>.seg`, numbered from 1; readers merge
the writers. Records are numbered from 0 for each writer (`seq`), without gaps, over all its segments and restarts. All
integers are little-endian; every crc32 and sha256 covers bytes as they are on disk.

    segment := header (at 0), mark (at 512), frame* (from 4096)
    header  := magic "SNOWLOG1", number u64, epoch u64 (openings of this writer), created u64 (ns since the Unix epoch),
               first seq u64, digest of the frame before (32 bytes), marker (8 random bytes), writer (64 bytes,
               zero-padded), crc32 u32 of the header so far
    mark    := end u64, next seq u64, smallest and largest id time u64 (ms), digest of the last frame (32),
               closed u32 (0 or 1), crc32 u32 of the mark so far
    frame   := marker (8), checksum u32, head bytes u32, bodies bytes u32, head, body*
    head    := digest of the frame before (32), first seq u64, count u32, smallest and largest id time u64 (ms),
               entry*, header*
    entry   := header bytes u32, body bytes u32, sha256 of the body (32)
    header  := msgpack map: a `Record` without its payload
    body    := salt (16 random bytes), msgpack map: the record's `Payload`

A frame is one commit batch and is written only when the one before it is synced. Answers leave after the sync. The
**mark** says up to where the segment is known to be durable; the writer overwrites it in place after each sync, and
readers stop there. It needs no sync of its own: after a power cut it may be old, and recovery finds the end. Frames
begin with a marker that is random for each segment, so that no client can send a payload that looks like a frame.

A frame's checksum is the crc32 of its two lengths and its head; bodies are covered by their digests. So a follower
reads headers and passes over payloads, and still knows that what it reads is what was written. A frame's digest is the
sha256 of its head: it covers the digest before it, and of each record the header and the digest of the salted body.
A body, salt and all, can be overwritten with "erased. erased. …", in place: the chain still verifies, and nobody can
guess at what was there.

A tensor that is too large for a frame lies in a file of its own, in the folder `tensors` beside the writers, and the
body has its digest (`tensors`). The file is on disk before the frame.

A bad last frame is a torn tail and is cut by recovery; a bad frame with a good one behind it, or before the mark, is
corruption and is reported, with writer and seq, never skipped in silence. A write that comes out short or fails, and a
sync that fails, end the segment's use: what a second sync says after a failed one means nothing. The next segment goes
on from the mark, with the same numbers; what the old one has behind its mark does not count.

A closed segment is **sealed**: compressed in blocks, in the folder `sealed` of its writer, and read by the same offsets
(`sealed`). What is sealed is projected into Parquet, in the folder `parquet` (`columns`, `projection`), and the
manifest says what is where.

Beside the writers lie two files of signed lines: `checkpoints` says every few seconds how far all chains had come, and
where they begin since retention; `erasures` says which bodies were overwritten on purpose. Together with a key they
tell what somebody changed from what was written (`checkpoints`, `erasures`, `verify`).

The contract is in `tests/contracts/test_log.py`, and another implementation joins by one line there.
"""
