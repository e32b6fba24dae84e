"""`softmux serve` with a worker that dies while a text is written, and that is not replaced before a line comes in.

    python -m tests.dying_server --backbone DIR ...

The line gives a test the time to look at a process whose worker is dead; without it the process would be gone at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import server.engine.engine
import server.serve
from server.app import create_app
from server.cli import main
from server.engine.rows import RunningRow
from server.engine.step import RowResult, Stepper

NUM_TOKENS = 5  # that a row gets before the worker dies


class DyingStepper(Stepper):
    def run(self, rows: Sequence[RunningRow]) -> Sequence[RowResult]:
        if any(len(row.written) >= NUM_TOKENS for row in rows):
            raise RuntimeError("the device fell off the bus")
        return super().run(rows)


def create_watched_app(settings: Any, *, on_worker_death: Callable[[], None], **options: Any) -> Any:
    def wait_for_line() -> None:
        line = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        line.add_done_callback(lambda _: on_worker_death())

    return create_app(settings, on_worker_death=wait_for_line, **options)


if __name__ == "__main__":
    server.engine.engine.Stepper = DyingStepper
    server.serve.create_app = create_watched_app
    sys.argv[0] = "softmux"
    main()
