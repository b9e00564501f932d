"""What the bodies of the admin API's requests have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Actor = Annotated[str, Field(min_length=1, max_length=128, description="Who does it; goes into the audit log.")]
Reason = Annotated[str, Field(max_length=4096, description="Why, in a sentence; goes into the audit log.")]


class Body(BaseModel):
    """What a request may hold; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class Act(Body):
    """Who acts, and why."""

    actor: Actor = "api"
    reason: Reason = ""
