"""An HTTP/2 peer that is driven frame by frame, also where no well-behaved client would go."""

import socket
from types import TracebackType
from typing import Any, NamedTuple, Self

from hpack import Decoder, Encoder

from gateway.grpc import http2
from gateway.grpc.messages import message

InferRequest = message("inference.ModelInferRequest")
InferResponse = message("inference.ModelInferResponse")
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Frame(NamedTuple):
    """One frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def row(model: str = "signs", version: str = "1", size: int = 1) -> bytes:
    """A call with rows for the model of the tests, as a message with its prefix."""
    request = InferRequest(model_name=model, model_version=version, raw_input_contents=[b"\0\0\x80\x3f" * 3 * size])
    request.inputs.add(name="x", datatype="FP32", shape=[size, 3])
    return prefixed(request.SerializeToString())


def prefixed(data: bytes) -> bytes:
    """A message as gRPC frames it."""
    return b"\0" + len(data).to_bytes(4, "big") + data


class Peer:
    """One connection."""

    def __init__(self, address: str, *, window: int | None = None, greeted: bool = True) -> None:
        """`window` is the size that the peer announces for each stream."""
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.encoder = Encoder()
        self._decoder = Decoder()
        self._data = b""
        if greeted:
            ours = {} if window is None else {http2.INITIAL_WINDOW_SIZE: window}
            self.socket.sendall(http2.PREFACE + http2.settings(ours))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        """Send one frame."""
        self.socket.sendall(http2.frame(kind, flags, stream, payload))

    def block(self, path: str = INFER, **metadata: str) -> bytes:
        """Encode the headers of a call; names have underscores for hyphens."""
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
        fields |= {"content-type": "application/grpc"} | {name.replace("_", "-"): one for name, one in metadata.items()}
        return bytes(self.encoder.encode(list(fields.items())))

    def call(self, stream: int, data: bytes | None = None, path: str = INFER, **metadata: str) -> None:
        """Send a whole call."""
        self.send(http2.HEADERS, http2.END_HEADERS, stream, self.block(path, **metadata))
        data = row() if data is None else data
        for at in range(0, len(data), http2.FRAME_BYTES):
            self.send(http2.DATA, 0, stream, data[at : at + http2.FRAME_BYTES])
        self.send(http2.DATA, http2.END_STREAM, stream)

    def read(self) -> Frame | None:
        """Read the next frame; None at the end of the connection."""
        while True:
            if len(self._data) >= http2.FRAME.size:
                high, low, kind, flags, stream = http2.FRAME.unpack_from(self._data)
                end = http2.FRAME.size + (high << 8 | low)
                if len(self._data) >= end:
                    payload, self._data = self._data[http2.FRAME.size : end], self._data[end:]
                    return Frame(kind, flags, stream, payload)
            try:
                more = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not more:
                return None
            self._data += more

    def wait(self, kind: int, flag: int = 0) -> Frame:
        """Read until a frame of this kind, with this flag, comes."""
        while (found := self.read()) is not None:
            if found.kind == http2.HEADERS and (found.kind, flag) != (kind, flag):
                self.headers(found)
            if found.kind == kind and found.flags & flag == flag:
                return found
        raise AssertionError("the connection ended before the frame came")

    def headers(self, found: Frame) -> dict[str, str]:
        """Decode the headers of a frame."""
        return {str(name): str(value) for name, value in self._decoder.decode(found.payload)}

    def answer(self, stream: int) -> tuple[dict[str, str], bytes, dict[str, str]]:
        """Read one whole answer: what stands before it, its messages with their prefixes, and what stands behind."""
        first: dict[str, str] = {}
        data = b""
        while (found := self.read()) is not None:
            if found.stream != stream:
                continue
            if found.kind == http2.HEADERS:
                fields = self.headers(found)
                if found.flags & http2.END_STREAM:
                    return first, data, fields
                first = fields
            elif found.kind == http2.DATA:
                data += found.payload
        raise AssertionError(f"the connection ended before the answer; until then {first} and {len(data)} bytes")

    def ended(self) -> bool:
        """Read until the server ends the connection."""
        while self.read() is not None:
            pass
        return True

    def goaway(self) -> tuple[int, str]:
        """Read until the server ends the connection: its code and its sentence."""
        said: Frame | None = None
        while (found := self.read()) is not None:
            said = found if found.kind == http2.GOAWAY else said
        assert said is not None, "the connection ended without a word"
        return int.from_bytes(said.payload[4:8], "big"), said.payload[8:].decode()


def response(data: bytes) -> Any:
    """Read an answer's one message."""
    assert int.from_bytes(data[1:5], "big") == len(data) - 5
    return InferResponse.FromString(data[5:])
