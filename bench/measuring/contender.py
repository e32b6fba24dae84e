"""A contender in a process of its own, which sleeps while others run. Knows nothing of models.

Two contenders in one process would have two teams of OpenMP threads, more than there are cores; libgomp then stops
spinning between parallel regions, which slows down whoever uses many small operations.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

Answers = Sequence[Sequence[float]]
"""What each request got: logits, or the ids of its tokens."""


@dataclass(frozen=True, slots=True)
class Round:
    """The whole of the work, done once: `amount` units of it (requests, tokens, steps) in `seconds`."""

    amount: float
    seconds: float
    answers: Answers = ()
    facts: Mapping[str, float] = field(default_factory=dict)  # what else was seen, such as bytes on the device


RunRound = Callable[[], Round]
Opener = Callable[[], AbstractContextManager[RunRound]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work. `open` is called in the contender's process, so it must be picklable."""

    name: str
    open: Opener


class RunningContender:
    """A contender whose process has loaded what it needs and has done the work once, untimed."""

    def __init__(self, contender: Contender) -> None:
        self.name = contender.name
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["bench.measuring.preload"])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_live, args=(contender.open, theirs), daemon=True)
        self._process.start()
        theirs.close()  # or its death would not be seen
        self.first: Round = self._hear()

    @property
    def answers(self) -> Answers:
        """What every request got."""
        return self.first.answers

    def run_round(self) -> Round:
        """Have it do the work once; the seconds are by its own clock."""
        self._tell(is_to_run=True)
        done: Round = self._hear()
        return done

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
        return RuntimeError(f"the process of {self.name} ended with code {self._process.exitcode}; why stands above")


@contextmanager
def running(contenders: Sequence[Contender]) -> Iterator[list[RunningContender]]:
    """Start every contender, one after the other, and end them all with the block."""
    with ExitStack() as ending:
        started = []
        for contender in contenders:
            started.append(RunningContender(contender))
            ending.callback(started[-1].end)
        yield started


def timed(work: Callable[[], Answers], amount: float) -> RunRound:
    """Return what does `work` by the clock; `amount` is how much of it there is."""

    def run_round() -> Round:
        started = time.perf_counter()
        answers = work()
        return Round(amount, time.perf_counter() - started, answers)

    return run_round


def _live(open_round: Opener, connection: Connection) -> None:
    with open_round() as run_round:
        connection.send(run_round())
        while connection.recv():
            done = run_round()
            connection.send(Round(done.amount, done.seconds, (), done.facts))
