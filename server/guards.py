"""Rollback rules at work: whichever replica sees one broken takes the alias back, by a compare-and-set move.

Such a move has no rule, so nothing can take it back again but somebody who moves the alias anew: it never flaps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from prompt_store.errors import SerialConflictError, SoftmuxError, StoreFullError, StoreUnavailableError
from prompt_store.refs import Alias, TaskName, Version
from prompt_store.store import AliasState, Guard, Target
from server.verdicts import Breach, Verdict, Window, breach

log = logging.getLogger(__name__)


class MovesAliases(Protocol):
    """Who takes an alias back."""

    async def take_back(self, task: TaskName, state: AliasState, targets: tuple[Target, ...], reason: str) -> None:
        """Move the alias in the store unless it left `state`, then serve the targets where they can be served."""
        ...


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """How an alias is taken back."""

    retry_s: float = 1.0  # when the store is away or full


@dataclass(slots=True)
class _Watched:
    """What was seen of one state of an alias."""

    serial: int
    moved_at: float
    windows: dict[Version, Window] = field(default_factory=dict)
    is_broken: bool = False


class Guards:
    """Count what the watched versions of guarded aliases answer here, and act on it, once for each state."""

    def __init__(
        self,
        moves: MovesAliases,
        settings: GuardSettings,
        clock: Callable[[], float],
        on_rollback: Callable[[str], None],
    ) -> None:
        self._moves = moves
        self._settings = settings
        self._clock = clock
        self._on_rollback = on_rollback
        self._watched: dict[tuple[TaskName, Alias], _Watched] = {}
        self._jobs: set[asyncio.Task[None]] = set()

    def note(self, task: TaskName, state: AliasState, version: Version, verdict: Verdict) -> None:
        """Note an answer that a version gave as a target of this state of an alias, which is served."""
        if state.guard is None or version not in state.watched():
            return
        window = self._of(task, state).windows.setdefault(version, Window(state.guard.rule.window_s))
        window.add(verdict, self._clock())
        if verdict is not Verdict.GOOD:
            self._act(task, state, version, breach(state.guard.rule, window.counts(self._clock())))

    def note_quarantine(self, task: TaskName, state: AliasState, version: Version) -> None:
        """Take a quarantined version back at once, however few of its answers were seen here."""
        if version in state.watched():
            self._act(task, state, version, Breach("quarantine", "it is quarantined"))

    def forget(self, task: TaskName, version: Version) -> None:
        """Forget the states that watched a version which was deleted, as the task may have been."""
        for key, watched in tuple(self._watched.items()):
            if key[0] == task and (not watched.windows or version in watched.windows):
                del self._watched[key]

    async def settle(self) -> None:
        """Wait until every rollback that has begun has ended."""
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def close(self) -> None:
        """Abandon rollbacks in flight: another replica sees what this one saw."""
        for job in tuple(self._jobs):
            job.cancel()
        await self.settle()

    def _of(self, task: TaskName, state: AliasState) -> _Watched:
        """Return the counts of this state, which is the one served; a task made anew begins its serials again."""
        key = (task, state.alias)
        watched = self._watched.get(key)
        if watched is None or (watched.serial, watched.moved_at) != (state.serial, state.moved_at):
            watched = self._watched[key] = _Watched(state.serial, state.moved_at)
        return watched

    def _act(self, task: TaskName, state: AliasState, version: Version, found: Breach | None) -> None:
        watched = self._of(task, state)
        if found is None or watched.is_broken or state.guard is None:
            return
        watched.is_broken = True
        job = asyncio.create_task(self._take_back(task, state, state.guard, _named(version, found)))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _take_back(self, task: TaskName, state: AliasState, guard: Guard, found: Breach) -> None:
        words = {"task": str(task), "alias": state.alias, "serial": state.serial, "reason": found.reason}
        log.error("a rollback rule was broken", extra=words)
        while True:
            try:
                await self._moves.take_back(task, state, guard.targets, found.reason)
            except SerialConflictError:
                log.info("somebody else moved the alias first", extra=words)
                return
            except (StoreUnavailableError, StoreFullError) as error:
                log.warning("the alias could not be taken back yet", extra=words, exc_info=error)
            except SoftmuxError as error:
                log.critical("the alias cannot be taken back", extra=words, exc_info=error)
                return
            else:
                log.error("the alias was taken back", extra=words)
                self._on_rollback(found.cause)
                return
            await asyncio.sleep(self._settings.retry_s)


def _named(version: Version, found: Breach) -> Breach:
    return Breach(found.cause, f"version {version}: {found.reason}")
