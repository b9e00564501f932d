"""The registry or folder that an address names."""

from collections.abc import Mapping
from functools import partial

from bundles.errors import BundleError
from bundles.remote.address import Address
from bundles.remote.credentials import find_credentials
from bundles.remote.folder import Folder
from bundles.remote.registry import Registry
from bundles.remote.session import Session

Place = Registry | Folder


def open_place(address: Address, environment: Mapping[str, str], *, insecure: bool, writing: bool) -> Place:
    """Open what an address names; nothing is asked of it yet. Raises BundleError.

    `environment` has the credentials, or says where they are; `insecure` allows http to other machines.
    """
    if address.scheme == "oci":
        scope = f"repository:{address.repository}:{'pull,push' if writing else 'pull'}"
        credentials = partial(find_credentials, address.host, environment)
        return Registry(address, Session(address.host, scope, insecure=insecure, credentials=credentials))
    if insecure:
        msg = f"{address}: --insecure is about registries, expected oci://…"
        raise BundleError(msg)
    return Folder(address)
