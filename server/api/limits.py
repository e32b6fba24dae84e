"""Doors: a request takes a permit or is refused at once. Nobody waits in line out here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Header, Request

from server.api.context import context_of
from server.api.refusals import DrainingError, OverloadedError
from server.api.services import Services, services_of
from server.settings import Limits


class Door:
    """Let at most `capacity` requests be inside at a time. Used on the event loop only."""

    def __init__(self, capacity: int, what: str, on_refusal: Callable[[str], None] = lambda reason: None) -> None:
        self._capacity = capacity
        self._what = what
        self._on_refusal = on_refusal
        self.num_inside = 0
        self.is_open = True

    def shut(self) -> None:
        """Let nobody in from now on; who is inside may finish."""
        self.is_open = False

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold one permit. Raises DrainingError, OverloadedError."""
        self._refuse()
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    def _refuse(self) -> None:
        if not self.is_open:
            self._on_refusal("draining")
            raise DrainingError("this replica is draining and takes no new requests; send it to another one")
        if self.num_inside >= self._capacity:
            self._on_refusal("overloaded")
            raise OverloadedError(f"all {self._capacity} permits for {self._what} are taken; retry soon")


async def inference_permit(services: Annotated[Services, Depends(services_of)]) -> AsyncIterator[None]:
    """Hold a permit from before the body is looked at until the last byte of the answer is sent."""
    with services.door.permit():
        yield


async def upload_permit(services: Annotated[Services, Depends(services_of)]) -> AsyncIterator[None]:
    """Hold one of the few permits to upload."""
    with services.upload_door.permit():
        yield


TimeoutMs = Annotated[
    int | None,
    Header(alias="X-Request-Timeout", ge=1, description="Milliseconds after which the answer is of no use; capped."),
]


async def deadline_of(
    request: Request,
    services: Annotated[Services, Depends(services_of)],
    timeout_ms: TimeoutMs = None,
) -> float:
    """Return when (time.monotonic) this request's answer is of no more use, counted from its arrival."""
    return context_of(request.scope).arrived + timeout_s(timeout_ms, services.settings.limits)


def timeout_s(timeout_ms: int | None, limits: Limits) -> float:
    """Return the time a request may take: its own wish, capped, or the default."""
    wish = limits.default_request_timeout_s if timeout_ms is None else timeout_ms / 1000
    return min(wish, limits.max_request_timeout_s)


Deadline = Annotated[float, Depends(deadline_of)]
"""`time.monotonic()` seconds."""
