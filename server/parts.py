"""Open and close what lives as long as the process: store, engine, tasks, publisher, inference. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch

from prompt_store.open import local_folder, open_store
from prompt_store.store import PromptStore
from server.abilities import tell
from server.api.services import Parts, ServedEngine
from server.cleaning import Cleaner, CleanerSettings
from server.engine.engine import Engine
from server.engine.settings import EngineSettings
from server.inference.service import InferenceService, InferenceSettings
from server.metered_engine import MeteredEngine
from server.publishing import Publisher, PublishSettings
from server.residents import ResidentSettings
from server.settings import Limits, Settings
from server.tasks import Tasks, TasksSettings
from server.tasks_observer import UNOBSERVED, TasksObserver
from server.telemetry.metrics import Metrics, StepMetrics, TasksMetrics
from server.warming import POPULAR_FILE, Warmer, WarmerSettings


@asynccontextmanager
async def open_parts(settings: Settings, metrics: Metrics) -> AsyncIterator[Parts]:
    """Open the real parts. Nothing is served until the backbone is loaded and has passed its gates."""
    store = await asyncio.to_thread(open_store, settings.store)
    try:
        engine = await asyncio.to_thread(
            Engine.open, settings.backbone, engine_settings(settings), StepMetrics(metrics)
        )
        tell(engine.spec)
        engine.start(asyncio.get_running_loop())
        try:
            async with put_together(settings, store, MeteredEngine(engine, metrics), TasksMetrics(metrics)) as parts:
                yield parts
        finally:
            await engine.close()
    finally:
        await store.close()


@asynccontextmanager
async def put_together(
    settings: Settings, store: PromptStore, engine: ServedEngine, observer: TasksObserver = UNOBSERVED
) -> AsyncIterator[Parts]:
    """Build the parts between store and engine, following the store while they are open."""
    tasks = Tasks(store, engine, tasks_settings(settings), observer=observer)
    inference = InferenceService(engine, tasks, inference_settings(settings.limits))
    publisher = Publisher(store, engine, tasks, inference, PublishSettings(**settings.quotas.model_dump()))
    await tasks.start()
    cleaner = Cleaner(store, tasks, CleanerSettings(**settings.cleaning.model_dump()))
    warmer = Warmer(tasks, warmer_settings(settings))
    jobs = (
        asyncio.create_task(cleaner.run(), name="store-cleaner"),
        asyncio.create_task(warmer.run(), name="prompt-warmer"),
    )
    try:
        yield Parts(engine, store, tasks, publisher, inference)
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await warmer.save()
        await tasks.close()


def tasks_settings(settings: Settings) -> TasksSettings:
    """Return how tasks hold prompts."""
    is_page_locked = settings.device != "cpu" and torch.cuda.is_available()
    residents = ResidentSettings(host_budget_bytes=settings.residency.host_budget_bytes, is_page_locked=is_page_locked)
    return TasksSettings(max_load_wait_s=settings.residency.max_load_wait_s, residents=residents)


def warmer_settings(settings: Settings) -> WarmerSettings:
    """Return where popular prompts are written down: by default where this machine keeps something of the store."""
    wanted, folder = settings.residency.popular_file, local_folder(settings.store)
    file = Path(wanted) if wanted else folder / POPULAR_FILE if folder else None
    return WarmerSettings(file, settings.residency.warm_tasks, settings.residency.save_every_s)


def inference_settings(limits: Limits) -> InferenceSettings:
    """Return how much one request may ask for; every input may at least be one row."""
    return InferenceSettings(
        max_items=limits.max_inputs,
        max_rows_per_item=limits.max_rows_per_input,
        max_rows=max(limits.max_rows, limits.max_inputs),
    )


def engine_settings(settings: Settings) -> EngineSettings:
    """Return the engine's own settings."""
    return EngineSettings(
        dtype=settings.dtype,
        device=settings.device,
        num_threads=settings.num_threads,
        **settings.engine.model_dump(),
    )
