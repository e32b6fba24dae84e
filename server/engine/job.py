"""Work that needs the device between two steps, and how it ends. Knows no rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from server.engine.errors import EngineDeadError, OutOfMemoryError


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Bringing a version, or a trial. Whatever `run` raises belongs to whoever waits for `done`."""

    run: Callable[[], Any]
    done: Future[Any]

    def end(self, is_alive: bool) -> None:
        """Run it, or refuse it when the worker is no longer alive; a job that nobody waits for is left."""
        if not self.done.set_running_or_notify_cancel():
            return
        if not is_alive:
            self.done.set_exception(EngineDeadError("the engine has stopped"))
            return
        try:
            self.done.set_result(self.run())
        except RuntimeError as error:
            is_full = is_out_of_memory(error)
            self.done.set_exception(OutOfMemoryError(f"the device has no memory for it: {error}") if is_full else error)
        except Exception as error:  # noqa: BLE001 - it must not take the worker's rows down
            self.done.set_exception(error)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device (or, on a CPU, the allocator) had no room; anything else is not to be tried again."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
