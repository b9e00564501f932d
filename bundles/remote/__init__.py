"""Bundles elsewhere: in an OCI registry (`oci://host/repository:tag`), or any folder that fsspec reaches (`s3://…`).

What comes from there is not believed. The manifest is hashed and must be the one that was asked for; every file that
it names is hashed as it comes, and refused at its first byte too many; sizes are known before a byte is written.
Only then does the index of the store name the bundle, and only then does it get a version. What a broken pull leaves
are whole files, each of the right digest, that the next pull need not fetch again; `bundle gc` removes them in time.

Statements travel with their bundle. None of them is believed either: a bundle from elsewhere is untrusted until this
home trusts a key that signed it.

    address    what a user types, taken apart
    place      the registry or folder that an address names
    session    one HTTP server: signing in, redirects, limits, retries
    credentials    for a registry, from docker's config.json or the environment
    registry   the OCI distribution protocol on a session
    folder     the same by fsspec
    transfer   how a bundle goes there and comes from there, whatever it is
"""
