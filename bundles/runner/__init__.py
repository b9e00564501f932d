"""The runner: the process in which one bundle is loaded and answers batches.

This folder stands alone: the standard library, numpy, and the framework of the bundle's loader. It is started by its
path, with `-I`, by the interpreter of the bundle's environment, in which Snowgate need not be installed:

    python -I -u …/bundles/runner --directory UNPACKED --socket PATH --parent PID --confine SCRATCH

`frames` is what goes over the socket, `connections` a worker's end of it; `loaders` turns a folder into something that
predicts, run by one of the `engines`, which a `trial` compares on the `golden` examples; `around` are the bundle's own
functions before and behind its `model`, `declared` holds answers against what was declared; `signals` measures what the
monitors follow, `batches` makes answers of frames, `server` is the loop around them. `confine` gives up what a model
does not need, before any of it. The host's side is `bundles.process`.
"""
