"""The section `[export]`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from gateway.section import Names, Section


class ExportSettings(Section):
    """The prediction log as CloudEvents, for a receiver of them."""

    url: str | None = Field(
        default=None, pattern=r"^https?://[^\s]+$", description="Where events are posted; none: no export."
    )
    format: Literal["kserve", "seldon", "cloudevents"] = Field(
        default="cloudevents",
        description="As the loggers of KServe or Seldon send them, or the whole record (cloudevents).",
    )
    models: Names = Field(default=(), description="Only these models are exported; none: all of them.")
    batch: int = Field(
        default=1, ge=1, le=1000, description="Events of a request; more than one with the format cloudevents only."
    )
    in_flight: int = Field(default=8, ge=1, le=64, description="Requests that are under way at the same time.")
    timeout_seconds: float = Field(default=10.0, gt=0, le=600, description="How long the receiver may stay silent.")
    header_file: Path | None = Field(
        default=None, description="A file with headers, one a line, such as `Authorization: Bearer …`."
    )

    @model_validator(mode="after")
    def _batches(self) -> Self:
        if self.batch > 1 and self.format != "cloudevents":
            msg = f"batch = {self.batch} with format = {self.format}: its events go one by one, expected batch = 1"
            raise ValueError(msg)
        return self
