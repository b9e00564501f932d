"""The prediction log: everything that was answered or refused, on disk before the answer left.

Each writer (a worker process) owns a series of segment files, `<writer>-<number>.seg`; readers merge the series. All
integers are little-endian.

    segment := header (256 bytes), frame*
    header  := magic "SNOWLOG1", format u32, state u32 (0 written, 1 closed), mark u64, number u64, epoch u64 (ns),
               first seq u64, digest of the frame before (32), writer's name (64)
    frame   := magic "FRM1", crc32 u32 of all that follows, payload bytes u32, count u32, first seq u64,
               smallest and largest id time u64 (ms), digest of the frame before (32), record*
    record  := header bytes u32, body bytes u32, sha256 of the body (32), header (msgpack), body
    body    := salt (16), msgpack of the payload: inputs, outputs, unit, client's ids

A frame is one commit batch and is written only when the one before it is synced. Answers leave after the sync. The
**mark** is the offset up to which the segment is known to be durable; the writer overwrites it in place after each
sync, and readers stop there. A bad frame at the end is a torn tail and is cut by recovery; a bad frame with a good one
behind it is corruption and is reported, never skipped in silence. A write that comes out short or fails, and a sync
that fails, end the segment's use: what a second sync says after a failed one means nothing.

A frame's digest covers its counts, the digest before it, and of each record the header and the digest of the salted
body: a body can be erased, salt and all, and the chain still verifies, while nobody can guess at what was erased.
"""
