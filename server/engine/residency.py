"""Soft prompts on the device: who is resident, under a budget of bytes, with leases and pins.

Lives on the event loop's thread and runs no model. Vectors and heads are parts, shared by the versions of a tenant that
have the same ones: a new head or template reuses resident vectors, and no tenant can time another's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from prompt_store.refs import TaskName, Version
from server.engine.errors import ResidencyFullError
from server.engine.heads import Head
from server.engine.prefixes import Prefix
from server.engine.types import Reading

VersionKey = tuple[TaskName, Version]
PartKey = tuple[Hashable, ...]
Leading = tuple[int | None, ...]  # token ids; None where a virtual token stands


class Sized(Protocol):
    """Anything that takes bytes on the device."""

    @property
    def size_bytes(self) -> int:
        """Bytes on the device."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DecoderVectors:
    """The part of a soft prompt that is for an encoder-decoder's decoder."""

    embeds: torch.Tensor | None = None  # [n, E] in front of its start token
    prefix: Prefix | None = None  # before its own keys
    cross: Prefix | None = None  # before the keys of its encoder

    @property
    def num_embeds(self) -> int:
        """Virtual tokens among the decoder's."""
        return 0 if self.embeds is None else len(self.embeds)

    @property
    def num_prefix(self) -> int:
        """Keys that stand before the decoder's own."""
        return 0 if self.prefix is None else self.prefix[0].shape[1]

    @property
    def num_cross(self) -> int:
        """Keys that stand before its encoder's."""
        return 0 if self.cross is None else self.cross[0].shape[1]

    @property
    def size_bytes(self) -> int:
        """Bytes on the device."""
        tensors = (self.embeds, *(self.prefix or ()), *(self.cross or ()))
        return sum(t.nbytes for t in tensors if t is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """A soft prompt as a step uses it. `prefix` stands before the text; `embeds` stand in it."""

    embeds: torch.Tensor | None  # [n, E] in the serving dtype; None when compiled or KV only
    prefix: Prefix | None
    compiled: Leading = ()  # the leading input positions that `prefix` already holds
    decoder: DecoderVectors | None = None  # of an encoder-decoder; `embeds` and `prefix` are its encoder's

    @property
    def num_prefix(self) -> int:
        """Keys that stand before the row's own."""
        return 0 if self.prefix is None else self.prefix[0].shape[1]

    @property
    def size_bytes(self) -> int:
        """Bytes on the device."""
        tensors = (self.embeds, *(self.prefix or ()))
        own_bytes: int = sum(t.nbytes for t in tensors if t is not None)
        return own_bytes + (self.decoder.size_bytes if self.decoder else 0)


@dataclass(slots=True, eq=False)
class Resident:
    """One version that steps can use now."""

    key: VersionKey
    vectors: Vectors
    plain: Vectors | None  # the same without compilation, for rows that do not begin as the template does
    head: Head | None
    reading: Reading
    text_position_offset: int | None  # position of the first token after a KV prefix; None: after the prefix's keys
    part_keys: tuple[PartKey, ...]
    decoder_position_offset: int | None = None  # of the decoder's first token after a KV prefix; None: after its keys
    embeds_twice: bool = False  # the text's whole embedding goes in beside the virtual tokens, and is embedded again
    num_leases: int = 0
    is_pinned: bool = False
    is_retired: bool = False  # leaves with its last lease


class Lease:
    """A request's hold on one resident version."""

    def __init__(self, resident: Resident, on_release: Callable[[Resident], None]) -> None:
        self.resident = resident
        self._on_release: Callable[[Resident], None] | None = on_release

    def again(self) -> Lease:
        """Hold the same version once more, on somebody else's account."""
        assert self._on_release is not None, "a lease that has ended holds nothing"
        self.resident.num_leases += 1
        return Lease(self.resident, self._on_release)

    def release(self) -> None:
        """End the hold. Must be called exactly once."""
        assert self._on_release is not None, "a lease is released exactly once"
        on_release, self._on_release = self._on_release, None
        on_release(self.resident)


@dataclass(slots=True)
class _Part:
    content: Sized
    users: set[VersionKey] = field(default_factory=set)


class Residency:
    """Residents in order of last use, their parts, and the bytes of both."""

    def __init__(self, budget_bytes: int, on_eviction: Callable[[str], None]) -> None:
        self.budget_bytes = budget_bytes
        self._on_eviction = on_eviction
        self._residents: dict[VersionKey, Resident] = {}  # least recently used first
        self._parts: dict[PartKey, _Part] = {}

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, key: VersionKey) -> bool:
        return key in self._residents

    @property
    def size_bytes(self) -> int:
        """Bytes of every part on the device."""
        return sum(part.content.size_bytes for part in self._parts.values())

    @property
    def num_leases(self) -> int:
        """Leases that have not ended."""
        return sum(resident.num_leases for resident in self._residents.values())

    def part(self, key: PartKey) -> Sized | None:
        """Return a part that is on the device."""
        part = self._parts.get(key)
        return part.content if part else None

    def has_room(self, num_bytes: int) -> bool:
        """Whether so many bytes fit beside all that is here."""
        return self.size_bytes + num_bytes <= self.budget_bytes

    def make_room(self, num_bytes: int, kept: Collection[PartKey] = ()) -> None:
        """Evict what was used longest ago until `num_bytes` fit beside the parts `kept`, which are about to be shared.

        Raises ResidencyFullError when leases and pins leave no room; nothing is evicted then.
        """
        for resident in self._victims(num_bytes, kept):
            self._forget(resident)
            self._on_eviction("budget")

    def add(self, resident: Resident, parts: dict[PartKey, Sized]) -> None:
        """Register a version with its parts, for which room was made."""
        assert resident.key not in self._residents
        for key, content in parts.items():
            self._parts.setdefault(key, _Part(content)).users.add(resident.key)
        self._residents[resident.key] = resident

    def lease(self, key: VersionKey) -> Lease | None:
        """Hold a version; None when it is not resident or about to leave."""
        resident = self._residents.get(key)
        if resident is None or resident.is_retired:
            return None
        self._residents[key] = self._residents.pop(key)
        resident.num_leases += 1
        return Lease(resident, self._released)

    def unload(self, key: VersionKey) -> bool:
        """Let a version go once no lease holds it; False when it is not resident."""
        resident = self._residents.get(key)
        if resident is None:
            return False
        resident.is_retired = True
        if resident.num_leases == 0:
            self._forget(resident)
            self._on_eviction("unload")
        return True

    def keep(self, key: VersionKey) -> bool:
        """Take back an `unload` that still waits for leases; False when the version is not resident."""
        resident = self._residents.get(key)
        if resident is None:
            return False
        resident.is_retired = False
        return True

    def pin(self, key: VersionKey, is_pinned: bool) -> None:
        """Keep a resident version from eviction, or let it go again."""
        resident = self._residents.get(key)
        if resident is not None:
            resident.is_pinned = is_pinned

    def _released(self, resident: Resident) -> None:
        resident.num_leases -= 1
        if resident.num_leases == 0 and resident.is_retired:
            self._forget(resident)
            self._on_eviction("unload")

    def _victims(self, num_bytes: int, kept: Collection[PartKey]) -> list[Resident]:
        chosen: set[VersionKey] = set()
        over = self.size_bytes + num_bytes - self.budget_bytes
        for resident in self._residents.values():
            if over <= 0:
                break
            if resident.num_leases or resident.is_pinned:
                continue
            chosen.add(resident.key)
            over -= self._freed_by(resident, chosen, kept)
        if over > 0:
            raise ResidencyFullError(
                f"{num_bytes} bytes of soft prompt do not fit: the budget is {self.budget_bytes} bytes, and "
                f"{self.size_bytes} are held, {over} more than can be evicted beside leases and pins"
            )
        return [self._residents[key] for key in chosen]

    def _freed_by(self, resident: Resident, chosen: set[VersionKey], kept: Collection[PartKey]) -> int:
        parts = (self._parts[key] for key in resident.part_keys if key not in kept)
        return sum(part.content.size_bytes for part in parts if part.users <= chosen)

    def _forget(self, resident: Resident) -> None:
        del self._residents[resident.key]
        for key in resident.part_keys:
            part = self._parts[key]
            part.users.discard(resident.key)
            if not part.users:
                del self._parts[key]
