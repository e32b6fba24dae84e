"""The one thread that owns the device: takes rows in, runs steps, sends results out, and dies by design.

Whatever ends it, every row it holds is answered first; the engine then refuses, liveness turns red and the process is
replaced. Nothing here touches the event loop but `post`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from server.engine.admission import Admission
from server.engine.errors import DeadlineError, EngineDeadError, EngineError, OutOfMemoryError
from server.engine.job import Job, is_out_of_memory
from server.engine.messages import Abort, Arrival, Message
from server.engine.observer import StepObserver
from server.engine.row_memory import RowMemory
from server.engine.rows import RunningRow
from server.engine.scheduler import Scheduler, Waiting
from server.engine.step import RowResult, Stepper
from server.engine.stream import Delivery, RowEvent
from server.engine.types import FinishReason, Outcome, Token

log = logging.getLogger(__name__)

IDLE_S = 0.25  # how long an idle worker waits before it shows that it lives
STOP_S = 30.0  # how long a step may take to end when the process is to end


@dataclass(slots=True, eq=False)
class _Active:
    """A row that has joined a step."""

    waiting: Waiting
    row: RunningRow
    started: float


@dataclass(frozen=True, slots=True, eq=False)
class WorkerParts:
    """What a worker works with; all but `admission` are its own."""

    stepper: Stepper
    memory: RowMemory
    scheduler: Scheduler
    admission: Admission
    observer: StepObserver
    eos_token_ids: frozenset[int]
    num_threads: int  # CPU threads of a step


class Worker:
    """Runs on its own thread from `start` until `stop` or its death."""

    def __init__(self, parts: WorkerParts, post: Callable[[Sequence[Delivery]], None]) -> None:
        self._parts = parts
        self._post = post
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._arrivals: dict[int, Arrival] = {}  # waiting
        self._active: dict[int, _Active] = {}
        self._deliveries: list[Delivery] = []
        self._thread = threading.Thread(target=self._live, name="softmux-worker", daemon=True)
        self._has_threads = threading.Event()
        self._closing = threading.Lock()
        self.is_alive = True
        self.heartbeat = time.monotonic()

    @property
    def num_running(self) -> int:
        """Rows that have joined a step."""
        return len(self._active)

    def start(self) -> None:
        """Start the thread, and keep torch's CPU threads for it: every other thread computes alone from now on.

        A second team of OpenMP threads would outnumber the cores; libgomp then stops spinning between parallel regions,
        and each of a step's thousands of small operations pays for waking the team (a fifth of MiniLM's step).
        """
        self._thread.start()
        self._has_threads.wait()
        torch.set_num_threads(1)

    def send(self, message: Message) -> None:
        """Hand the worker a message. Raises EngineDeadError once it has ended."""
        with self._closing:
            if not self.is_alive:
                raise EngineDeadError("the engine has stopped; the server is about to be replaced")
            self._inbox.put(message)

    def stop(self) -> None:
        """End the thread after the step it is in; rows that still run are answered with EngineDeadError."""
        with contextlib.suppress(EngineDeadError):
            self.send(None)
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            log.critical("the engine's worker does not end: it hangs in native code and goes with the process")

    def _live(self) -> None:
        torch.set_num_threads(self._parts.num_threads)
        torch.get_num_threads()  # binds the number to this thread; until asked it would follow the process's
        self._has_threads.set()
        try:
            while self._take_messages():
                self.heartbeat = time.monotonic()
                self._expire()
                self._admit()
                self._step()
                self._flush()
        except BaseException as error:
            log.critical("the engine's worker died", exc_info=error)
            # What it was stands in the log; it is nothing for tenants.
            self._last_words("the engine has failed and is about to be replaced; try again in a moment")
        else:
            self._last_words("the server is shutting down")

    def _last_words(self, reason: str) -> None:
        """Answer every row and job there is, and let no other in."""
        with self._closing:
            self.is_alive = False
        while not self._inbox.empty():
            with contextlib.suppress(RuntimeError):  # as below
                self._receive(self._inbox.get())
        for row_id in [*self._arrivals, *self._active]:
            # A device that has failed fails again when a slot is freed; by then the row has its answer.
            with contextlib.suppress(RuntimeError):
                self._end(row_id, EngineDeadError(reason), "dead")
        self._flush()

    def _take_messages(self) -> bool:
        """Receive all that has come, waiting a little when there is nothing to do; False: stop."""
        is_busy = bool(self._active or self._arrivals)
        try:
            message = self._inbox.get(block=not is_busy, timeout=None if is_busy else IDLE_S)
            while self._receive(message):
                message = self._inbox.get_nowait()
        except queue.Empty:
            return True
        return False

    def _receive(self, message: Message) -> bool:
        match message:
            case Arrival():
                self._arrivals[message.waiting.row_id] = message
                self._parts.scheduler.add(message.waiting)
            case Abort():
                if message.row_id in self._arrivals or message.row_id in self._active:
                    self._end(message.row_id, self._outcome(message.row_id, FinishReason.ABORTED))
            case Job():
                message.end(self.is_alive)
            case None:
                return False
        return True

    def _expire(self) -> None:
        now = time.monotonic()
        late = self._parts.scheduler.expired()
        late += [i for i, a in self._active.items() if a.waiting.deadline is not None and a.waiting.deadline <= now]
        for row_id in late:
            self._end(row_id, DeadlineError("the request's time ran out before its answer"), "deadline")

    def _admit(self) -> None:
        num_tokens = sum(a.row.num_step_tokens for a in self._active.values())
        without_slot: list[int] = []
        fits = functools.partial(self._reserve, without_slot)
        for waiting in self._parts.scheduler.select(len(self._active), num_tokens, fits):
            self._parts.admission.release(waiting.num_tokens)
            row = self._arrivals.pop(waiting.row_id).row
            self._active[waiting.row_id] = _Active(waiting, row, time.monotonic())
        for row_id in without_slot:
            self._end(row_id, OutOfMemoryError("the device has no memory for this row's keys"), "memory")

    def _reserve(self, without_slot: list[int], waiting: Waiting) -> bool:
        """Take the row's slot in the KV memory; one-shot rows need none.

        A row for which the device has less memory than the budget says joins `without_slot`.
        """
        row = self._arrivals[waiting.row_id].row
        if not row.is_generating:
            return True
        try:
            return row.take_slots(self._parts.memory)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            without_slot.append(waiting.row_id)
        return False

    def _step(self) -> None:
        if not self._active:
            return
        began = time.monotonic()
        ids, active = list(self._active), list(self._active.values())
        num_tokens = sum(a.row.num_step_tokens for a in active)
        results = self._run([a.row for a in active])
        for row_id, result in zip(ids, results, strict=True):
            self._settle(row_id, result)
        num_tasks = len({a.row.resident.key[0] for a in active})
        self._parts.observer.step(len(active), num_tokens, num_tasks, time.monotonic() - began)

    def _run(self, rows: Sequence[RunningRow]) -> list[RowResult | OutOfMemoryError]:
        """Run a step; when the device's memory is full, run its halves, down to single rows."""
        try:
            return list(self._parts.stepper.run(rows))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside the except block: the traceback would keep the failed step's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            return [OutOfMemoryError("the device has no memory for this row, even alone")]
        half = len(rows) // 2
        return self._run(rows[:half]) + self._run(rows[half:])

    def _settle(self, row_id: int, result: RowResult | OutOfMemoryError) -> None:
        match result:
            case Token():
                self._write(row_id, result)
            case EngineError():
                self._end(row_id, result, "memory" if isinstance(result, OutOfMemoryError) else "nonfinite")
            case _:
                self._end(row_id, replace(self._outcome(row_id, FinishReason.READ), logits=result))

    def _write(self, row_id: int, token: Token) -> None:
        active = self._active[row_id]
        self._parts.scheduler.charge(active.waiting.tenant, 0, 1)
        ended = active.row.write(token, self._parts.eos_token_ids)
        if ended is not FinishReason.STOP:
            self._deliveries.append(Delivery(row_id, token))
        if ended:
            self._end(row_id, self._outcome(row_id, ended))

    def _outcome(self, row_id: int, reason: FinishReason) -> Outcome:
        active = self._active.get(row_id)
        now = time.monotonic()
        if active is None:
            return Outcome(reason, queue_s=now - self._arrivals[row_id].waiting.arrived)
        return Outcome(
            reason,
            tokens=tuple(active.row.written),
            queue_s=active.started - active.waiting.arrived,
            step_s=now - active.started,
        )

    def _end(self, row_id: int, event: RowEvent, failure: str | None = None) -> None:
        """Give back what the row holds and tell it how it ended."""
        arrival, active = self._arrivals.pop(row_id, None), self._active.pop(row_id, None)
        if arrival is not None:
            self._parts.scheduler.remove(row_id)
            self._parts.admission.release(arrival.waiting.num_tokens)
        if failure:
            self._parts.observer.row_failed(failure)
        self._deliveries.append(Delivery(row_id, event))
        if active is not None:
            active.row.release_slots(self._parts.memory)

    def _flush(self) -> None:
        deliveries, self._deliveries = self._deliveries, []
        if deliveries:
            self._post(deliveries)
