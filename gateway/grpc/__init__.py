"""The data plane over gRPC: the Open Inference Protocol's service, health and reflection, on a port of their own.

From the bottom up: `http2` writes frames, `connection` reads them and is one HTTP/2 connection with its limits,
`stream` is one call on it with gRPC's message frames and flow control, `head` and `status` are what stands before and
after the messages. Above them a **handler** answers one call: `infer` takes inference down the path that all wires
share (`gateway.predict`), `unary` runs the small methods of `service`, `health` and `reflection` are gRPC's own
services. `server` ties a worker's connections together.
"""
