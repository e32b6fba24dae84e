"""Artifacts in host memory, decoded and checked, so that one that left the device comes back without the store.

Used from the event loop alone. Keyed by tenant and digest: no tenant can time another's, and nothing goes stale.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from prompt_store.artifact import Artifact
from prompt_store.refs import Version
from prompt_store.store import Tier

HostKey = tuple[str, Version]

HOST = "host"


class HostTier:
    """Within `budget_bytes`; what was used longest ago goes first, and never what is pinned."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[HostKey, Artifact] = OrderedDict()
        self._pinned: set[HostKey] = set()
        self._size_bytes = 0
        self._num_hits = self._num_misses = self._num_evictions = 0

    def state(self) -> Tier:
        """Return how full it is, and how often it had what was asked for."""
        return Tier(
            name=HOST,
            num_held=len(self._held),
            size_bytes=self._size_bytes,
            budget_bytes=self._budget_bytes,
            num_hits=self._num_hits,
            num_misses=self._num_misses,
            num_evictions=self._num_evictions,
        )

    def get(self, key: HostKey) -> Artifact | None:
        """Return what is held, which counts as its use."""
        found = self._held.get(key)
        self._num_hits += found is not None
        self._num_misses += found is None
        self.touch(key)
        return found

    def touch(self, key: HostKey) -> None:
        """Count a use: what requests use on the device must not be the first to go here."""
        if key in self._held:
            self._held.move_to_end(key)

    def has(self, key: HostKey) -> bool:
        """Look without counting."""
        return key in self._held

    def has_room(self, artifact: Artifact) -> bool:
        """Say whether holding this would push nothing out."""
        return self._size_bytes + size_bytes(artifact) <= self._budget_bytes

    def put(self, key: HostKey, artifact: Artifact) -> None:
        """Hold an artifact, unless it fits only where something pinned is."""
        self.forget(key)
        size = size_bytes(artifact)
        pinned = sum(size_bytes(held) for other, held in self._held.items() if other in self._pinned)
        if pinned + size > self._budget_bytes:
            return
        self._held[key] = artifact
        self._size_bytes += size
        for victim in [held for held in self._held if held not in self._pinned]:
            if self._size_bytes <= self._budget_bytes:
                return
            self.forget(victim)
            self._num_evictions += 1

    def pin(self, key: HostKey, is_pinned: bool) -> None:
        """Keep what is, or will be, held under this key; or let it go again."""
        (self._pinned.add if is_pinned else self._pinned.discard)(key)

    def forget(self, key: HostKey) -> None:
        """Let go of one."""
        gone = self._held.pop(key, None)
        if gone is not None:
            self._size_bytes -= size_bytes(gone)


def size_bytes(artifact: Artifact) -> int:
    """Return the bytes of an artifact's tensors."""
    return sum(tensor.nbytes for tensor in artifact.tensors.values())


def page_locked(artifact: Artifact) -> Artifact:
    """Return the artifact in memory that a CUDA device copies from directly, if there is some; takes milliseconds."""
    try:
        return replace(artifact, tensors={name: tensor.pin_memory() for name, tensor in artifact.tensors.items()})
    except RuntimeError:  # the system has no more of it: plain memory is copied from more slowly
        return artifact
