"""The notary: signs what is said about the prediction log with the home's key, and knows whose signatures count."""

from bundles import signing
from bundles.errors import BundleError
from bundles.signing import Keys
from monitors.log.checkpoints import PAYLOAD_TYPE, Envelope
from monitors.log.errors import CheckpointUntrusted


class HomeNotary:
    """A home's keys, as the log's checkpoints need them."""

    def __init__(self, keys: Keys) -> None:
        """Raises HomeError, BundleError: a key is there and can't be read."""
        self._keys = keys
        self._trusted = keys.trusted()

    @property
    def has_keys(self) -> bool:
        """Whether there is any key here to check with."""
        return bool(self._trusted)

    def sign(self, payload: bytes) -> Envelope:
        """Sign with the home's key, which is made at first use. Raises HomeError."""
        signer = self._keys.signer()
        if signer.public_key not in self._trusted:
            self._trusted = self._keys.trusted()
        return signing.seal(payload, PAYLOAD_TYPE, signer)

    def check(self, envelope: Envelope) -> str:
        """Return the id of the trusted key that signed this. Raises CheckpointUntrusted."""
        try:
            return signing.unseal(envelope, PAYLOAD_TYPE, self._trusted, "log checkpoint")[0]
        except BundleError as error:
            raise CheckpointUntrusted(str(error)) from error
