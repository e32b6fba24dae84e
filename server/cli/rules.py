"""Rollback rules as the command line writes them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_PANEL = "Rollback rule"

MaxErrorRate = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Take it back over this share of failed answers.", rich_help_panel=_PANEL),
]
MaxNonfiniteRate = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Take it back over this share of non-finite answers.", rich_help_panel=_PANEL),
]
WindowS = Annotated[
    float | None, typer.Option(min=0, help="Of the answers of so many seconds (60).", rich_help_panel=_PANEL)
]
MinRequests = Annotated[int | None, typer.Option(min=1, help="Fewer answers say nothing (20).", rich_help_panel=_PANEL)]


def rule_of(
    max_error_rate: float | None, max_nonfinite_rate: float | None, window_s: float | None, min_requests: int | None
) -> dict[str, Any] | None:
    """Return the rule as the server takes it; None when none was asked for. Raises BadParameter."""
    fields = {
        "max_error_rate": max_error_rate,
        "max_nonfinite_rate": max_nonfinite_rate,
        "window_s": window_s,
        "min_requests": min_requests,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    if given and max_error_rate is None and max_nonfinite_rate is None:
        raise typer.BadParameter("a rollback rule needs --max-error-rate or --max-nonfinite-rate")
    return given or None
