"""What every body has in common, and the shape of errors."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """Something a client sends: fields we do not know are refused, with their path."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class View(BaseModel):
    """Something a client is sent."""

    model_config = ConfigDict(frozen=True)


class ErrorView(View):
    """What went wrong."""

    type: str
    message: str
    param: str | None = None
    task: str | None = None
    request_id: str | None = None
    reasons: list[str] | None = None


class ErrorAnswer(View):
    """The one shape of errors."""

    error: ErrorView


# Ranges rather than codes: the table in server/api/errors.py says which ones, and it keeps FastAPI from promising 422.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request cannot be served as it is; `type` says why"},
    "5XX": {"model": ErrorAnswer, "description": "The server cannot serve it now"},
}


def moment(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()
