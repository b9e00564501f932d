"""The notary: signs what is said about the prediction log with the home's key, and knows whose signatures count."""

from bundles import signing
from bundles.errors import BundleError
from bundles.signing import Keys
from monitors.log.errors import CheckpointUntrusted
from monitors.log.signed import Envelope


class HomeNotary:
    """A home's keys, as the log needs them."""

    def __init__(self, keys: Keys) -> None:
        """Raises HomeError, BundleError: a key is there and can't be read."""
        self._keys = keys
        self._trusted = keys.trusted()

    @property
    def has_keys(self) -> bool:
        """Whether there is any key here to check with."""
        return bool(self._trusted)

    def sign(self, payload: bytes, payload_type: str) -> Envelope:
        """Sign with the home's key, which is made at first use. Raises HomeError."""
        signer = self._keys.signer()
        if signer.public_key not in self._trusted:
            self._trusted = self._keys.trusted()
        return signing.seal(payload, payload_type, signer)

    def check(self, envelope: Envelope, payload_type: str) -> str:
        """Return the id of the trusted key that signed this. Raises CheckpointUntrusted."""
        try:
            return signing.unseal(envelope, payload_type, self._trusted, "prediction log")[0]
        except BundleError as error:
            raise CheckpointUntrusted(str(error)) from error
