"""Bundles: what a model is, with everything that stands behind it.

A bundle is an immutable package, kept as an OCI artifact in the form of the CNCF ModelPack specification: one manifest
that names every file by its digest, and whose own digest is the bundle's identity. Its files:

    model/…                    what serves: weights, code, whatever the packed folder held
    golden/inputs.safetensors  eight rows, and what the model answered to them when it was packed
    golden/outputs.safetensors
    baseline.json              the expected distribution of the model's signals, measured on the holdout
    data/…                     training data, where it is small
    run/run.json               how it was trained: command, parameters, data by digest, who, when, where
    code/source.tar            the tree that ran, uncommitted work included
    env/pylock.toml            the packages that were there
    env/serving/pylock.toml    the packages with which it is served, where it does not share the gateway's
    provenance.json            all of this as a SLSA v1 statement

The manifest's config blob is what a runner has to know: loader, entrypoint, tensors. Signatures are DSSE envelopes
beside the bundle, so that others can sign it later without changing its identity. Names (`signs@7`,
`signs@production`) are refs in a git repository; no weights enter git.
"""
