"""Bring what was popular in the last run near at start, and write down what is popular in this one."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prompt_store.errors import InvalidNameError, SoftmuxError, StoreUnavailableError
from prompt_store.refs import TaskName, TaskRef, Version
from server.engine.errors import EngineDeadError, ResidencyFullError
from server.popularity import Popularity

log = logging.getLogger(__name__)

_NOBODY_CAN = (StoreUnavailableError, EngineDeadError)  # bring anything now

POPULAR_FILE = "popular.json"


@dataclass(frozen=True, slots=True)
class WarmerSettings:
    """How much is brought, and how often counts are written."""

    file: Path | None = None  # None: nothing is remembered
    max_tasks: int = 1000  # at start
    save_every_s: float = 60.0


class WarmedTasks(Protocol):
    """Who makes versions resident."""

    @property
    def popularity(self) -> Popularity:
        """What was asked for."""
        ...

    async def versions_of(self, ref: TaskRef) -> tuple[Version, ...]:
        """Return the versions that requests for `ref` get; its alias is followed from now on."""
        ...

    async def load_if_room(self, task: TaskName, version: Version) -> bool:
        """Make a version resident; False when that would push another off the device."""
        ...

    async def fetch(self, task: TaskName, version: Version) -> bool:
        """Bring a version into host memory; False when there is no room without pushing another out."""
        ...


class Warmer:
    """Fills the device, then host memory, then writes counts again and again."""

    def __init__(self, tasks: WarmedTasks, settings: WarmerSettings) -> None:
        self._tasks = tasks
        self._settings = settings
        self._device_has_room = True
        self._knows_past = True

    async def run(self) -> None:
        """Work until cancelled. Requests are served meanwhile, and load what they need themselves."""
        file = self._settings.file
        if file is None:
            return
        self._knows_past = False
        try:
            self._tasks.popularity.load(await asyncio.to_thread(file.read_bytes))
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("popular prompts of the last run cannot be read, and are left as they are", exc_info=error)
            return
        self._knows_past = True
        await self.warm(self._tasks.popularity.most(self._settings.max_tasks))
        while True:
            await asyncio.sleep(self._settings.save_every_s)
            await self.save()

    async def warm(self, popular: tuple[str, ...]) -> int:
        """Bring these references near, the most popular first, as far as there is room. Return how many came."""
        num_warmed = 0
        for text in popular:
            try:
                if not await self._bring(TaskRef.parse(text)):
                    break
            except _NOBODY_CAN as error:
                log.warning("popular prompts are not brought near now", exc_info=error)
                break
            except (InvalidNameError, SoftmuxError) as error:  # deleted meanwhile, or fits no more
                log.info("a prompt that was popular cannot be served", extra={"task": text, "reason": str(error)})
                continue
            num_warmed += 1
        if num_warmed:
            log.info("popular prompts were brought near", extra={"num_prompts": num_warmed})
        return num_warmed

    async def save(self) -> None:
        """Write the counts; a disk that will not have them costs a warm start, and no more."""
        if self._settings.file is not None and self._knows_past:  # else it would forget what the last runs counted
            try:
                await asyncio.to_thread(_replace, self._settings.file, self._tasks.popularity.dump())
            except OSError as error:
                log.warning("popular prompts could not be written down", exc_info=error)

    async def _bring(self, ref: TaskRef) -> bool:
        """Bring whatever requests for `ref` get; False when there is no room left. Raises when none of it can come."""
        versions, came = await self._tasks.versions_of(ref), False
        for version in versions:
            try:
                if not await self._bring_one(ref.task, version):
                    return False
                came = True
            except _NOBODY_CAN:
                raise
            except SoftmuxError as error:  # quarantined, say: the others of its alias take its share
                if not came and version == versions[-1]:
                    raise
                log.info("a popular version cannot be served", extra={"task": str(ref), "reason": str(error)})
        return True

    async def _bring_one(self, task: TaskName, version: Version) -> bool:
        if self._device_has_room and await self._load(task, version):
            return True
        return await self._tasks.fetch(task, version)

    async def _load(self, task: TaskName, version: Version) -> bool:
        """Load what fits; behind the first that does not, nothing is tried: less popular ones must push none out."""
        try:
            self._device_has_room = await self._tasks.load_if_room(task, version)
        except ResidencyFullError:
            self._device_has_room = False
        return self._device_has_room


def _replace(file: Path, raw: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(raw)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
