"""The engine as the event loop sees it: submit rows, load versions, hold leases. All on the loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import UnfitError
from prompt_store.refs import TaskName, Version
from server.engine.admission import Admission, AdmissionLimits
from server.engine.backbone.backbone import Backbone
from server.engine.backbone.describe import describe
from server.engine.backbone.loading import load_parts
from server.engine.backbone.probe import probe
from server.engine.backbone.settling import quicken_parts
from server.engine.bringing import Bringing, Brought, Placed
from server.engine.decoder_rows import running_row
from server.engine.errors import EngineDeadError, NeverFitsError
from server.engine.job import Job
from server.engine.kv import KVMemory, KVShape
from server.engine.messages import Abort, Arrival
from server.engine.observer import StepObserver
from server.engine.paged_memory import PagedMemory
from server.engine.residency import Lease, PartKey, Residency, VersionKey
from server.engine.row_memory import RowMemory
from server.engine.rows import RunningRow, check_fits
from server.engine.scheduler import Scheduler, SchedulerLimits, Waiting
from server.engine.settings import EngineSettings
from server.engine.step import Stepper
from server.engine.stream import Delivery, RowStream
from server.engine.trial import Trial
from server.engine.types import EngineState, LoadRequest, RowInput, RowRequest
from server.engine.worker import Worker, WorkerParts

log = logging.getLogger(__name__)

T = TypeVar("T")
_OVER = object()


class Engine:
    """One backbone, its worker, and the soft prompts on its device."""

    def __init__(
        self, backbone: Backbone, spec: BackboneSpec, settings: EngineSettings, observer: StepObserver
    ) -> None:
        self.spec = spec
        self._settings = settings
        self._backbone = backbone
        self._bringing = Bringing(backbone)
        self._stepper = Stepper(backbone)
        self._trial = Trial(self._bringing, self._stepper, spec, settings.share_prefix_from)
        self._residency = Residency(settings.resident_budget_bytes, observer.evicted)
        self._admission = Admission(
            AdmissionLimits(settings.max_waiting_rows, settings.max_waiting_tokens), time.monotonic
        )
        self._memory = _memory(backbone, settings)
        self._worker = self._new_worker(observer)
        self._rows: dict[int, tuple[RowStream, Lease]] = {}  # each holds its version until it has left the worker
        self._row_ids = itertools.count(1)
        self._loading: dict[VersionKey, asyncio.Task[None]] = {}
        self._load_lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def open(cls, directory: str, settings: EngineSettings, observer: StepObserver) -> Engine:
        """Load the backbone in `directory` and pass it through both gates. Takes seconds; blocks.

        Raises BackboneRefusedError, by name and with every reason, when it cannot be served exactly.
        """
        settings = replace(settings, num_threads=settings.num_threads or torch.get_num_threads())
        torch.set_num_threads(1)  # see Worker.start
        parts = load_parts(directory, _dtype(settings), _device(settings))
        log.info("the backbone's weights are read")
        quicken_parts(parts, settings.wide_weight_bytes)
        report = probe(parts.config, type(parts.model or parts.base))
        backbone = Backbone(parts)
        return cls(backbone, describe(backbone, Path(directory), report.refusals), settings, observer)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The backbone's tokenizer."""
        assert self._backbone.parts.tokenizer is not None
        return self._backbone.parts.tokenizer

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the worker. That it has died is seen in `state`."""
        self._loop = loop
        self._worker.start()

    async def close(self) -> None:
        """Stop the worker; rows that still run get EngineDeadError. Again is a no-op."""
        await asyncio.to_thread(self._worker.stop)
        await asyncio.sleep(0)  # let the worker's last deliveries arrive

    async def load(self, request: LoadRequest) -> None:
        """Make a version resident, once however many ask: beside the steps, or between two where it is compiled.

        Raises UnfitError when no empty device could hold it, ResidencyFullError, OutOfMemoryError, EngineDeadError.
        """
        key = (request.task, request.version)
        if self._residency.keep(key):
            return
        if key not in self._loading:
            task = self._loading[key] = asyncio.ensure_future(self._load(request))
            task.add_done_callback(lambda _: self._loading.pop(key))
        await asyncio.shield(self._loading[key])

    async def has_room(self, request: LoadRequest) -> bool:
        """Whether the version would become resident without pushing another out. Raises UnfitError like `load`."""
        self._refuse_too_large(request)
        keys = await asyncio.to_thread(self._bringing.part_keys, request)
        return self._residency.has_room(self._missing_bytes(request, keys))

    async def trial(self, request: LoadRequest, row: RowInput) -> None:
        """Run a version alone. Raises TrialError when its answer is not finite or its prompt changes nothing."""
        self._refuse_too_large(request)
        keys = await asyncio.to_thread(self._bringing.part_keys, request)
        passes = self._trial.passes(request, keys, row)
        while await self._on_worker(lambda: next(passes, _OVER)) is not _OVER:
            pass  # the worker takes a step of those who are served before the next pass

    def lease(self, task: TaskName, version: Version) -> Lease | None:
        """Hold a resident version, or return None when it is not resident."""
        return self._residency.lease((task, version))

    def submit(self, request: RowRequest) -> RowStream:
        """Queue the row and return its channel. The row holds its version until it has left.

        Raises NeverFitsError, QueueFullError, EngineDeadError at once.
        """
        share_from = self._settings.share_prefix_from
        shape = self._backbone.shape
        row = running_row(request.lease.resident, request.row, request.sampling, shape, share_from)
        check_fits(row, self.spec.max_positions)
        self._check_memory(row)
        num_tokens = row.num_step_tokens
        self._admission.reserve(num_tokens, request.deadline)
        row_id = next(self._row_ids)
        task = request.lease.resident.key[0]
        waiting = Waiting(row_id, task.tenant, str(task), num_tokens, request.deadline, time.monotonic())
        try:
            self._worker.send(Arrival(waiting, row))
        except EngineDeadError:
            self._admission.release(num_tokens)
            raise
        # Nothing the worker says can be heard before this call returns to the loop.
        stream = RowStream(row_id, self._abort)
        self._rows[row_id] = stream, request.lease.again()
        return stream

    def unload(self, task: TaskName, version: Version) -> bool:
        """Take a version off the device once no lease holds it; False when it is not there."""
        return self._residency.unload((task, version))

    def pin(self, task: TaskName, version: Version) -> None:
        """Keep a resident version from eviction."""
        self._residency.pin((task, version), is_pinned=True)

    def unpin(self, task: TaskName, version: Version) -> None:
        """Let a version be evicted again."""
        self._residency.pin((task, version), is_pinned=False)

    def is_resident(self, task: TaskName, version: Version) -> bool:
        """Whether the version is on the device now."""
        return (task, version) in self._residency

    def state(self) -> EngineState:
        """Return a snapshot."""
        return EngineState(
            is_alive=self._worker.is_alive,
            heartbeat_age_s=time.monotonic() - self._worker.heartbeat,
            num_running=self._worker.num_running,
            num_waiting=self._admission.num_rows,
            num_waiting_tokens=self._admission.num_tokens,
            kv_bytes_used=self._memory.used_bytes,
            kv_bytes_budget=self._memory.budget_bytes,
            resident_bytes=self._residency.size_bytes,
            resident_budget_bytes=self._residency.budget_bytes,
            num_resident=len(self._residency),
        )

    async def _load(self, request: LoadRequest) -> None:
        self._refuse_too_large(request)
        keys = await asyncio.to_thread(self._bringing.part_keys, request)
        # One at a time: room is made before a version is brought, and must still be there afterwards.
        async with self._load_lock:
            known = {key: part for key in keys.values() if (part := self._residency.part(key)) is not None}
            if missing_bytes := self._missing_bytes(request, keys):
                self._residency.make_room(missing_bytes, known)
            placed = await self._off_worker(lambda: self._bringing.place(request, keys, known))
            brought = await self._finished(request, keys, placed)
            self._residency.add(brought.resident, brought.parts)

    async def _finished(self, request: LoadRequest, keys: dict[str, PartKey], placed: Placed) -> Brought:
        if placed.to_compile is None:
            return self._bringing.finish(request, keys, placed)
        return await self._on_worker(lambda: self._bringing.finish(request, keys, placed))

    def _missing_bytes(self, request: LoadRequest, keys: dict[str, PartKey]) -> int:
        sizes = self._bringing.part_sizes(request)
        return sum(sizes[name] for name, key in keys.items() if self._residency.part(key) is None)

    def _refuse_too_large(self, request: LoadRequest) -> None:
        size_bytes, budget_bytes = self._bringing.size_bytes(request), self._residency.budget_bytes
        if size_bytes > budget_bytes:
            raise UnfitError(
                f"the version takes {size_bytes} bytes on the device; its whole budget for soft prompts is "
                f"{budget_bytes}. Train fewer virtual tokens, or raise the engine's resident_budget_bytes"
            )

    async def _off_worker(self, run: Callable[[], T]) -> T:
        """Run what needs the device but no step of its own, while steps go on."""
        done: Future[T] = Future()
        await asyncio.to_thread(Job(run, done).end, self._worker.is_alive)
        return done.result()

    async def _on_worker(self, run: Callable[[], T]) -> T:
        done: Future[T] = Future()
        self._worker.send(Job(run, done))
        return await asyncio.wrap_future(done)

    def _check_memory(self, row: RunningRow) -> None:
        if row.is_generating and not self._memory.can_ever_hold(*row.slot_sizes):
            raise NeverFitsError(
                f"the row's keys take {self._memory.slot_bytes(*row.slot_sizes)} bytes; the KV memory has "
                f"{self._memory.budget_bytes}. Ask for fewer new tokens, or raise the engine's kv_budget_bytes"
            )

    def _abort(self, row_id: int) -> None:
        with contextlib.suppress(EngineDeadError):  # a dead worker has freed every row already
            self._worker.send(Abort(row_id))

    def _new_worker(self, observer: StepObserver) -> Worker:
        s = self._settings
        parts = WorkerParts(
            stepper=self._stepper,
            memory=self._memory,
            scheduler=Scheduler(SchedulerLimits(s.max_rows, s.max_step_tokens, s.max_wait_s), time.monotonic),
            admission=self._admission,
            observer=observer,
            eos_token_ids=self._backbone.eos_token_ids,
            num_threads=s.num_threads or torch.get_num_threads(),
        )
        return Worker(parts, self._post)

    def _post(self, deliveries: Sequence[Delivery]) -> None:
        """Cross from the worker to the loop, once a step. A loop that is closed has nobody left to tell."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, deliveries)

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            stream, lease = self._rows[delivery.row_id]
            stream.deliver(delivery.event)
            if stream.is_finished:
                del self._rows[delivery.row_id]
                lease.release()


def _memory(backbone: Backbone, settings: EngineSettings) -> RowMemory:
    """Return where running rows keep their keys. An encoder-decoder's stay in slots: its decoder looks at two kinds."""
    shape, budget_bytes = _kv_shape(backbone), settings.kv_budget_bytes
    layout = settings.kv_layout
    if layout == "auto":
        layout = "pages" if backbone.device.type == "cuda" else "slots"
    if layout == "slots" or backbone.stacks is not None:
        return KVMemory(shape, budget_bytes)
    return PagedMemory(shape, budget_bytes, settings.kv_page_tokens)


def _kv_shape(backbone: Backbone) -> KVShape:
    shape = backbone.shape
    return KVShape(shape.num_kept_layers, shape.num_kv_heads, shape.head_dim, backbone.dtype, backbone.device)


def _dtype(settings: EngineSettings) -> torch.dtype | None:
    return None if settings.dtype == "auto" else getattr(torch, settings.dtype)


def _device(settings: EngineSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)
