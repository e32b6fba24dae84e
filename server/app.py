"""The one place where the parts of the server meet. Nothing happens at import."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from server.settings import Settings


def create_app(settings: Settings, *, on_worker_death: Callable[[], None] = lambda: None) -> FastAPI:
    """Build the server. The backbone and the store are opened when the application starts, not before.

    `on_worker_death` is called once, on the event loop, when the engine's worker has ended.
    """
    raise NotImplementedError
