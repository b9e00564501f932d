"""The gateway: clients on one side, runners on the other, and a record of everything between.

One request's way through a worker, in the order of the files that it meets:

`lane` (the HTTP protocol class: bytes to a call) → `predict` (the whole way of one call, top to bottom, in one
function) → `protocol` (Open Inference Protocol, both directions) → `routing` (which version, and why) →
`batching` (one frame a batch to the runner) → the prediction log → the answer.

Around the workers stands `control`: it supervises all other processes, reconciles what is desired (git refs) with
what is (routes in live state) by the pure decisions of `reconcile`, and serves the operators' port.
"""
