"""What an import brought is tried when it is first loaded: alone, and on its golden examples."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from fakes import byte_tokenizer, classifier, fake_spec, label_of, version_record
from wire_server import LivingEngine

from prompt_store.digest import version_of
from prompt_store.errors import TrialError
from prompt_store.manifest import GoldenExample
from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, TaskName, TaskRef
from prompt_store.store import PromptStore, Target
from server.cli.backup.importing import import_store
from server.cli.backup.writing import export_store
from server.engine.errors import (
    DeadlineError,
    EngineDeadError,
    EngineError,
    LoadingError,
    OutOfMemoryError,
    QueueFullError,
)
from server.inference.answer import InferCall
from server.parts import put_together
from server.settings import Settings
from server.task_lease import TaskLease

pytestmark = pytest.mark.anyio

TASK = TaskName("acme", "sentiment")
CALL = InferCall(TaskRef(TASK), "x")


@pytest.fixture
async def backup(tmp_path: Path) -> Path:
    """A store with one task, whose golden example promises `good`, as a file."""
    store = MemoryStore()
    example = GoldenExample(inputs="a text", outputs=[{"label": "good"}])
    version = await store.put(TASK.tenant, classifier(examples=(example,)).to_bytes())
    await store.commit(TASK, version_record(version))
    await store.move(TASK, LIVE, (Target(version),), None, "ann")
    await export_store(store, tmp_path / "backup.tar", lambda _: None, lambda _: None)
    return tmp_path / "backup.tar"


async def imported(backup: Path) -> MemoryStore:
    store = MemoryStore()
    assert (await import_store(backup, store, lambda _: None)).differing == ()
    return store


@asynccontextmanager
async def house(store: PromptStore):
    engine = LivingEngine(fake_spec(), byte_tokenizer())
    async with put_together(Settings(backbone="fake"), store, engine) as parts:
        yield parts, engine
        assert engine.num_leases == 0


async def test_a_version_that_keeps_its_promises_serves(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await imported(backup)
    (record,) = (await store.resolve(TASK)).versions
    assert record.is_untried
    monkeypatch.setattr("fakes.label_of", lambda version, labels: "good")
    async with house(store) as (parts, engine):
        for _ in range(3):
            assert (await parts.inference.infer(CALL)).version == record.version
        assert len(engine.trials) == 1
    async with house(store) as (parts, engine):  # another process tries it for itself
        await parts.inference.infer(CALL)
        assert len(engine.trials) == 1


async def test_a_version_that_breaks_them_takes_no_traffic(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fakes.label_of", lambda version, labels: "bad")
    async with house(await imported(backup)) as (parts, engine):
        with pytest.raises(TrialError, match=r"examples\[0\]"):
            await parts.inference.infer(CALL)
        assert not engine.resident


@pytest.mark.parametrize(
    "error",
    [
        QueueFullError("full"),
        OutOfMemoryError("full"),
        EngineDeadError("gone"),
        DeadlineError("late"),
        LoadingError("on its way"),
    ],
)
async def test_a_busy_device_is_not_held_against_it(
    backup: Path, monkeypatch: pytest.MonkeyPatch, error: EngineError
) -> None:
    monkeypatch.setattr("fakes.label_of", lambda version, labels: "good")
    async with house(await imported(backup)) as (parts, _):
        with monkeypatch.context() as busy:
            busy.setattr(parts.inference, "answer", _failing(error))
            with pytest.raises(type(error)):
                await parts.inference.infer(CALL)
        assert (await parts.inference.infer(CALL)).outputs[0]["label"] == "good"  # no time has to pass


def _failing(error: EngineError):
    async def answer(lease: TaskLease, call: InferCall) -> NoReturn:
        raise error

    return answer


async def test_a_published_version_is_tried_once(backup: Path) -> None:
    async with house(MemoryStore()) as (parts, engine):
        store = parts.store
        version = await store.put(TASK.tenant, classifier().to_bytes())
        await store.commit(TASK, version_record(version))
        await store.move(TASK, LIVE, (Target(version),), None, "ann")
        answer = await parts.inference.infer(CALL)
        assert answer.outputs[0]["label"] == label_of(version_of(classifier().to_bytes()), ("bad", "good"))
        assert not engine.trials


async def test_importing_again_what_is_there_differs_in_nothing(backup: Path) -> None:
    store = await imported(backup)
    assert (await import_store(backup, store, lambda _: None)).differing == ()
