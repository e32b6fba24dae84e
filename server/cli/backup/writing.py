"""Write a store into a backup, in place only when it is whole and on the disk."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prompt_store.refs import Version
from prompt_store.store import PromptStore
from server.cli.backup import ledger
from server.cli.backup.container import (
    END,
    FORMAT,
    HEAD,
    SCHEMA,
    TASKS_PER_LEDGER,
    Tally,
    artifact_name,
    ledger_name,
)
from server.cli.errors import LocalFileError

Advance = Callable[[int], None]

_GETS_AT_ONCE = 8
_HELD_BYTES = 32 << 20


async def export_store(store: PromptStore, file: Path, announce: Advance, advance: Advance) -> Tally:
    """Write every task of `store` to `file`, replacing it in one step; `advance` hears of each artifact's bytes.

    Raises StoreError, LocalFileError; then `file` is as it was.
    """
    tenants = sorted(await store.tenants())
    size_bytes = sum([await store.usage(tenant) for tenant in tenants])
    announce(size_bytes)
    with _in_place_when_whole(file) as tar:
        writer = _Writer(tar, file)
        writer.add(HEAD, _json({"format": FORMAT, "schema": SCHEMA, "at": time.time(), "size_bytes": size_bytes}))
        for tenant in tenants:
            await _export_tenant(store, tenant, writer, advance)
        writer.add(END, _json(writer.tally.as_dict()))
    return writer.tally


async def _export_tenant(store: PromptStore, tenant: str, writer: _Writer, advance: Advance) -> None:
    after = ""
    written: set[Version] = set()
    while copies := await store.copies(tenant, after, TASKS_PER_LEDGER):
        sizes = {record.version: record.size_bytes for copy in copies for record in copy.versions}
        for versions in _groups({version: size for version, size in sizes.items() if version not in written}):
            # Several at once: a store that is far away answers them in the time of one.
            for version, raw in zip(versions, await _get_all(store, tenant, versions), strict=True):
                writer.add(artifact_name(tenant, version), raw)
                advance(len(raw))
        written |= sizes.keys()
        held = tuple(copy for copy in copies if copy.versions)  # a task that lost every version has nothing to keep
        raw = ledger.dump(held)
        writer.add(ledger_name(raw), raw, len(held))
        after = copies[-1].task.name


async def _get_all(store: PromptStore, tenant: str, versions: list[Version]) -> list[bytes]:
    getting = [asyncio.ensure_future(store.get(tenant, version)) for version in versions]
    try:
        return await asyncio.gather(*getting)
    finally:
        for one in getting:
            one.cancel()
        await asyncio.gather(*getting, return_exceptions=True)


def _groups(sizes: dict[Version, int]) -> Iterator[list[Version]]:
    """Group versions in their order: few enough, and small enough together, to be held in memory."""
    group: list[Version] = []
    for version, size_bytes in sizes.items():
        if group and (len(group) == _GETS_AT_ONCE or sum(sizes[v] for v in group) + size_bytes > _HELD_BYTES):
            yield group
            group = []
        group.append(version)
    if group:
        yield group


class _Writer:
    def __init__(self, tar: tarfile.TarFile, file: Path) -> None:
        self.tally = Tally()
        self._file = file
        self._tar = tar

    def add(self, name: str, raw: bytes, num_tasks: int = 0) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(raw)
        member.mode = 0o600
        with _writing(self._file):
            self._tar.addfile(member, io.BytesIO(raw))
        self.tally.add(name, num_tasks)


@contextmanager
def _in_place_when_whole(file: Path) -> Iterator[tarfile.TarFile]:
    with _writing(file):
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=file.absolute().parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened:
            tar = tarfile.open(fileobj=opened, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 -- not on errors
            try:
                yield tar
            finally:
                with _writing(file):
                    tar.close()
                    opened.flush()
            with _writing(file):
                os.fsync(opened.fileno())
        with _writing(file):
            partial.replace(file)
            _sync_directory(file.absolute().parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalFileError(
            f"{file} cannot be written: {error.strerror or error}. Check its folder and the space, then export again"
        ) from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, indent=2).encode() + b"\n"
