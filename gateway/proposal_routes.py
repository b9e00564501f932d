"""The admin API's routes for what people do side by side: forks and proposals."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from gateway.admin_bodies import Act, Body, Reason
from gateway.guard import identity
from gateway.operations import Operations
from gateway.proposals import TEXT_CHARACTERS_MAX, Proposals
from gateway.together import Together

BranchName = Annotated[str, Field(max_length=260, description="MODEL@BRANCH.")]


class Fork(Act):
    """Where a branch begins."""

    reference: str = Field(max_length=512, description="The bundle: model@version, model@branch or sha256:…")
    branch: BranchName


class Open(Body):
    """What is proposed."""

    branch: BranchName
    environment: str = Field(max_length=128, description="The environment that shall serve the branch's head.")
    text: str = Field(max_length=TEXT_CHARACTERS_MAX, description="What is better about it.")
    actor: str = Field("api", max_length=128, description="Who does it, where no API key says so.")


class Review(Body):
    """A decision about what the branch's head is now."""

    approve: bool
    comment: Reason = ""
    actor: str = Field("api", max_length=128, description="Who does it, where no API key says so.")
    envelope: dict[str, Any] | None = Field(
        None, description="The signed review (DSSE); without it the gateway's home signs with its own key."
    )


class Merge(Act):
    """How a proposal is merged."""

    canary: int | None = Field(None, ge=1, le=99, description="Percent of the traffic; null for all of it.")


def proposal_routes(operations: Operations) -> APIRouter:
    """Return the routes. Where API keys are asked for, the caller's key is the actor, whatever the body says."""
    router = APIRouter()
    proposals = Proposals(operations)
    together = Together(operations)

    @router.post("/forks")
    def fork(request: Request, body: Fork) -> dict[str, Any]:
        """Begin a branch at a bundle."""
        return together.fork(body.reference, body.branch, actor=identity(request, body.actor), reason=body.reason)

    @router.get("/proposals")
    def list_(state: Annotated[Literal["open", "merged", "closed", "all"], Query()] = "open") -> list[dict[str, Any]]:
        """The proposals in a state, newest first."""
        return proposals.list(state)

    @router.post("/proposals")
    def open_(request: Request, body: Open) -> dict[str, Any]:
        """Propose a branch's head for an environment."""
        return proposals.open(body.branch, body.environment, text=body.text, actor=identity(request, body.actor))

    @router.get("/proposals/{id}")
    def show(id: str) -> dict[str, Any]:
        """One proposal: its reviews, the policy's verdict, and whether it can be merged."""
        return proposals.show(id)

    @router.post("/proposals/{id}/reviews")
    def review(request: Request, id: str, body: Review) -> dict[str, Any]:
        """Approve or reject what the branch's head is now."""
        actor = identity(request, body.actor)
        if body.envelope is not None:
            return proposals.add_review(id, body.envelope, actor=actor)
        return proposals.review(id, approve=body.approve, comment=body.comment, actor=actor)

    @router.post("/proposals/{id}/merge")
    def merge(request: Request, id: str, body: Merge) -> dict[str, Any]:
        """Let the environment desire the branch's head, if the policy lets it in."""
        actor = identity(request, body.actor)
        return proposals.merge(id, canary=body.canary, actor=actor, reason=body.reason)

    @router.post("/proposals/{id}/close")
    def close(request: Request, id: str, body: Act) -> dict[str, Any]:
        """End a proposal without merging it."""
        return proposals.close(id, actor=identity(request, body.actor), reason=body.reason)

    return router
