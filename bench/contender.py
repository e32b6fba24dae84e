"""A contender in a process of its own, which sleeps while others run. Knows nothing of models.

Two contenders in one process would have two teams of OpenMP threads, more than there are cores; libgomp then stops
spinning between parallel regions, which slows down whoever uses many small operations.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

Answer = Callable[[], Sequence[torch.Tensor]]
"""Do the whole of the work once, tokenisation included; return the logits of each request."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work. `open` is called in the contender's process, so it must be picklable."""

    subject: str
    case: str
    open: Callable[[], AbstractContextManager[Answer]]


class RunningContender:
    """A contender whose process has loaded what it needs and has answered once, untimed."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_live, args=(contender.open, theirs), daemon=True)
        self._process.start()
        theirs.close()  # or its death would not be seen
        self.logits = torch.tensor(self._hear())  # [requests, labels]

    def run_round(self) -> float:
        """Have it answer once, and return the seconds that it took by its own clock."""
        self._tell(is_to_run=True)
        return float(self._hear())

    def end(self) -> None:
        """End the process and wait for it."""
        if self._process.is_alive():
            self._tell(is_to_run=False)
        self._process.join()

    def _tell(self, *, is_to_run: bool) -> None:
        try:
            self._connection.send(is_to_run)
        except OSError as error:
            raise self._died() from error

    def _hear(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error

    def _died(self) -> RuntimeError:
        self._process.join()
        name = f"{self.contender.subject}, {self.contender.case}"
        return RuntimeError(f"the process of {name} ended with code {self._process.exitcode}; why stands above")


@contextmanager
def running(contenders: Sequence[Contender]) -> Iterator[list[RunningContender]]:
    """Start every contender, one after the other, and end them all with the block."""
    with ExitStack() as ending:
        started = []
        for contender in contenders:
            started.append(RunningContender(contender))
            ending.callback(started[-1].end)
        yield started


def _live(open_answer: Callable[[], AbstractContextManager[Answer]], connection: Connection) -> None:
    with open_answer() as answer:
        # Plain numbers: tensors would travel through shared memory.
        connection.send([logits.tolist() for logits in answer()])
        while connection.recv():
            started = time.perf_counter()
            answer()
            connection.send(time.perf_counter() - started)
