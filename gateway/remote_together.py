"""The same as `Together` and `Proposals` on a running gateway, for `--server URL`. Reviews are signed here."""

from typing import Any
from urllib.parse import quote

from securesystemslib.signer._crypto_signer import CryptoSigner

from gateway.remote import RemoteOperations
from gateway.vouching import sign_review


class RemoteTogether(RemoteOperations):
    """What both can do, asked for over HTTP. Raises OperationError with the server's own words."""

    def fork(self, reference: str, branch: str, *, actor: str, reason: str = "") -> Any:
        """See `Together.fork`."""
        body = {"reference": reference, "branch": branch, "actor": actor, "reason": reason}
        return self._ask("POST", "forks", body)

    def open(self, branch: str, environment: str, *, text: str, actor: str) -> Any:
        """See `Proposals.open`."""
        body = {"branch": branch, "environment": environment, "text": text, "actor": actor}
        return self._ask("POST", "proposals", body)

    def list(self, state: str = "open") -> Any:
        """See `Proposals.list`."""
        return self._ask("GET", f"proposals?state={state}")

    def show(self, id: str) -> Any:
        """See `Proposals.show`."""
        return self._ask("GET", f"proposals/{quote(id, safe='')}")

    def review(self, id: str, *, approve: bool, comment: str, actor: str, signer: CryptoSigner | None = None) -> Any:
        """See `Proposals.review`; with a key it is signed here, of what the server says that the head and base are."""
        body: dict[str, Any] = {"approve": approve, "comment": comment, "actor": actor}
        if signer is not None:
            one = self.show(id)
            base = None if one["base"] is None else one["base"]["digest"]
            head, model, environment = one["head"]["digest"], one["model"], one["environment"]
            body["envelope"] = sign_review(
                head, model, environment, base, signer, approve=approve, comment=comment, by=actor
            )
        return self._ask("POST", f"proposals/{quote(id, safe='')}/reviews", body)

    def merge(self, id: str, *, canary: int | None = None, actor: str, reason: str = "") -> Any:
        """See `Proposals.merge`."""
        body = {"canary": canary, "actor": actor, "reason": reason}
        return self._ask("POST", f"proposals/{quote(id, safe='')}/merge", body)

    def close(self, id: str, *, actor: str, reason: str = "") -> Any:
        """See `Proposals.close`."""
        return self._ask("POST", f"proposals/{quote(id, safe='')}/close", {"actor": actor, "reason": reason})
