"""What people do with bundles side by side: begin a branch, sign a word, ask the policy."""

from typing import Any

from securesystemslib.signer._crypto_signer import CryptoSigner

from bundles.errors import BundleError, RefConflict
from bundles.refs import check_name
from gateway.audit import audit
from gateway.gate import assess, replaced, utc
from gateway.operations import OperationError, Operations
from gateway.vouching import Word, sign_word


class Together:
    """These operations on one home. They raise OperationError, with the API's status for it."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self._home, self._state, self._refs = operations.home, operations.state, operations.refs

    def fork(self, reference: str, branch: str, *, actor: str, reason: str = "") -> dict[str, Any]:
        """Begin the branch `MODEL@BRANCH` at a bundle of that model.

        Raises:
            OperationError: unknown reference (404); the branch is there (409); a bad name, or another model's (422).
        """
        digest, model, version = self.operations.resolve(reference)
        name = branch_ref(branch)
        wanted, short = name.split("/")[2:]
        if wanted != model:
            raise OperationError(
                f"{branch}: {reference} is a bundle of {model}, and its branches are {model}@…; for a model of another "
                f"name pack it anew: snowgate bundle pack DIR --model {wanted}",
                422,
            )
        if short.isdecimal() or self._refs.list(f"refs/environments/{short}/"):
            raise OperationError(f"{branch}: is what a version or an environment is called; give another name", 422)
        self._state.commit(audit(actor, "fork", model, reason, {"branch": short, "digest": digest}))
        details = {"model": model, "version": version}
        try:
            self._refs.set(
                name, digest, expected=None, actor=actor, reason=reason or f"forked from {reference}", details=details
            )
        except RefConflict as error:
            raise OperationError(
                f"{branch}: is there already; give another name, or go on there: snowgate train --branch {short}", 409
            ) from error
        return {"branch": branch, "digest": digest, "model": model, "version": version}

    def sign(
        self, reference: str, word: Word, signer: CryptoSigner, *, environment: str, comment: str, actor: str
    ) -> dict[str, Any]:
        """Sign a word about a bundle and put it beside the bundle; see `vouching`.

        Raises:
            OperationError: unknown reference (404); a key that is not heard, a bundle that can't be read (422).
        """
        digest, model, version = self.operations.resolve(reference)
        try:
            signed = sign_word(
                self._home, self._refs, digest, word, signer, environment=environment, comment=comment, by=actor
            )
            result: dict[str, Any] = {"digest": digest, "model": model, "version": version, "said": word}
            result |= {"environment": environment, "base": signed.base} if word in ("approved", "rejected") else {}
            result |= {"key": str(signer.public_key.keyid)}
            self._state.commit(audit(actor, "sign", model, comment, result))
            self._home.store().attach(digest, signed.envelope)
        except BundleError as error:
            raise OperationError(str(error), 422) from error
        return result

    def check(self, reference: str, environment: str) -> dict[str, Any]:
        """Return what the gate would say of a bundle. Raises OperationError: unknown (404), or unreadable (422)."""
        digest, model, version = self.operations.resolve(reference)
        try:
            check_name("environment", environment)
            base = replaced(self._refs, environment, model, digest)
            verdict = assess(self._home, self._refs, digest, environment, base, moment=utc())
        except BundleError as error:
            raise OperationError(str(error), 422) from error
        return {"model": model, "version": version, **verdict.to_json()}


def branch_ref(branch: str) -> str:
    """Return the ref of `MODEL@BRANCH`. Raises OperationError (422)."""
    model, _at, name = branch.partition("@")
    try:
        return f"refs/heads/{check_name('model', model)}/{check_name('branch', name)}"
    except BundleError as error:
        raise OperationError(f"{branch[:200]!r}: expected MODEL@BRANCH: {error}", 422) from error
