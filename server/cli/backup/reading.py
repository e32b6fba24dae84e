"""Read a backup from beginning to end, believing nothing that its digests do not prove."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from prompt_store.digest import version_of
from prompt_store.refs import Version
from prompt_store.store import TaskCopy
from server.cli.backup import ledger
from server.cli.backup.container import (
    END,
    FORMAT,
    HEAD,
    MAX_ARTIFACT_BYTES,
    MAX_LEDGER_BYTES,
    SCHEMA,
    BackupFileError,
    Tally,
    is_ledger_name,
    ledger_name,
    read_artifact_name,
)
from server.cli.checkpoints.reading import reading

Advance = Callable[[int], None]

_WHAT_TO_DO = "Nothing can be brought from it: copy it again from where it was written, or export the store again"
_MAX_NOTE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BackedUpArtifact:
    """Bytes that have their digest."""

    tenant: str
    version: Version
    raw: bytes


BackedUp = BackedUpArtifact | tuple[TaskCopy, ...]


def check_backup(file: Path, advance: Advance) -> Tally:
    """Read a whole backup and return what is in it. Raises BackupFileError, LocalFileError."""
    found: set[tuple[str, Version]] = set()
    tally = Tally()
    for member in read_backup(file, advance, tally):
        if isinstance(member, BackedUpArtifact):
            found.add((member.tenant, member.version))
            continue
        for copy in member:
            lacking = [record.version for record in copy.versions if (copy.task.tenant, record.version) not in found]
            if lacking:
                raise _damaged(file, f"it has no bytes of version {lacking[0]} of {copy.task}")
    return tally


def read_backup(file: Path, advance: Advance, tally: Tally | None = None) -> Iterator[BackedUp]:
    """Yield artifacts and tasks in their order; ends only if the file is whole. Raises BackupFileError."""
    tally = tally or Tally()
    with reading(file), file.open("rb") as opened:
        try:
            tar = tarfile.open(fileobj=_Counted(opened, advance), mode="r|")  # type: ignore[call-overload]  # noqa: SIM115
        except tarfile.TarError as error:
            raise _damaged(file, f"it is no tar: {error}") from error
        with tar:
            members = _members(tar, file)
            _check_head(file, next(members, ("", b"")))
            tally.add(HEAD)
            yield from _rest(file, members, tally)


def _rest(file: Path, members: Iterator[tuple[str, bytes]], tally: Tally) -> Iterator[BackedUp]:
    for name, raw in members:
        if name == END:
            _check_end(file, raw, tally)
            return
        member = _read(file, name, raw)
        tally.add(name, 0 if isinstance(member, BackedUpArtifact) else len(member))
        yield member
    raise _damaged(file, "it was cut short: it has no end")


def _members(tar: tarfile.TarFile, file: Path) -> Iterator[tuple[str, bytes]]:
    try:
        while (member := tar.next()) is not None:
            if member.offset == 0 and member.name != HEAD:
                raise _foreign(file, member.name)
            if not member.isreg() or member.size > _limit(member.name):
                raise _damaged(file, f"it has {member.name[:100]!r}, which no backup has")
            opened = tar.extractfile(member)
            assert opened is not None  # it is a plain file
            yield member.name, opened.read()
            tar.members = []  # type: ignore[attr-defined]  # it remembers every one otherwise
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(file, f"it was cut short or overwritten: {error}") from error


def _limit(name: str) -> int:
    if read_artifact_name(name):
        return MAX_ARTIFACT_BYTES
    if is_ledger_name(name):
        return MAX_LEDGER_BYTES
    return _MAX_NOTE_BYTES if name in (HEAD, END) else -1


def _read(file: Path, name: str, raw: bytes) -> BackedUp:
    key = read_artifact_name(name)
    if key is not None:
        if version_of(raw) != key[1]:
            raise _damaged(file, f"the bytes of {name} do not have their digest")
        return BackedUpArtifact(*key, raw)
    if ledger_name(raw) != name:
        raise _damaged(file, f"{name} does not have its digest")
    return ledger.load(raw)


def _check_head(file: Path, member: tuple[str, bytes]) -> None:
    name, raw = member
    head = _object(raw) if name == HEAD else {}
    if head.get("format") != FORMAT:
        raise _foreign(file, name)
    if head.get("schema") != SCHEMA:
        raise BackupFileError(
            f"{file} has schema {head.get('schema')} and this softmux knows {SCHEMA}; use a newer one"
        )


def _check_end(file: Path, raw: bytes, tally: Tally) -> None:
    if _object(raw) != tally.as_dict():
        raise _damaged(file, "it does not hold what its end says")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _foreign(file: Path, name: str) -> BackupFileError:
    return BackupFileError(f"{file} is not a backup that `softmux export` wrote; it begins with {name[:100]!r}")


def _damaged(file: Path, found: str) -> BackupFileError:
    return BackupFileError(f"{file} is damaged: {found}. {_WHAT_TO_DO}")


class _Counted:
    def __init__(self, file: BinaryIO, advance: Advance) -> None:
        self._file = file
        self._advance = advance

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self._advance(len(chunk))
        return chunk
