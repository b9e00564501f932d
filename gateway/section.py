"""What every section of the settings is made of."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

BY_COMMAS = BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given)
"""A variable holds one text: commas part what a list would hold."""
Names = Annotated[tuple[str, ...], BY_COMMAS]


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
