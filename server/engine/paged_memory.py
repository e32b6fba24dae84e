"""The KV memory in pages: rows of any length in one pool, and the whole pages of a task's prefix once for all its rows.

Owned by the worker thread. A page is zeroed before it is free again: NaN behind a mask still reaches the output through
0 x NaN, so a poisoned row must leave nothing behind.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from server.engine.kv import KVShape
from server.engine.pages import NUM_RESERVED, PageLedger, RowPages, pages_for
from server.engine.prefixes import Prefix

FIRST_PAGES = 64


class PageOwner(Protocol):
    """A row whose keys are kept in pages."""

    pages: RowPages | None

    @property
    def held_prefix(self) -> Prefix | None:
        """The prefix in front of its own keys, unless it is held beside them."""
        ...


class PagePool:
    """The pages of every layer. `generation` changes when they move, and with them every address."""

    def __init__(self, shape: KVShape, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self.generation = 0
        self._shape = shape
        self.key = self._zeros(NUM_RESERVED)  # [layers, pages, page_tokens, heads, head_dim]
        self.value = self._zeros(NUM_RESERVED)

    @property
    def num_pages(self) -> int:
        """Pages there are, reserved ones too."""
        return self.key.shape[1]

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self._shape.token_bytes * self.page_tokens

    def grow(self, num_pages: int) -> None:
        """Make room for `num_pages` in all."""
        key, value = self._zeros(num_pages), self._zeros(num_pages)
        key[:, : self.num_pages] = self.key
        value[:, : self.num_pages] = self.value
        self.key, self.value = key, value
        self.generation += 1

    def zero(self, pages: Sequence[int]) -> None:
        """Forget what stands in `pages`."""
        if pages:
            at = torch.tensor(pages, device=self.key.device)
            self.key.index_fill_(1, at, 0)
            self.value.index_fill_(1, at, 0)

    def put(self, pages: Sequence[int], prefix: Prefix) -> None:
        """Write a prefix's first tokens into whole pages."""
        at, num_tokens = torch.tensor(pages, device=self.key.device), len(pages) * self.page_tokens
        for memory, part in zip((self.key, self.value), prefix, strict=True):
            whole = part[:, :num_tokens].reshape(len(part), len(pages), self.page_tokens, *part.shape[2:])
            memory.index_copy_(1, at, whole.to(memory.dtype))

    def _zeros(self, num_pages: int) -> torch.Tensor:
        s = self._shape
        size = (s.num_layers, num_pages, self.page_tokens, s.num_heads, s.head_dim)
        return torch.zeros(size, dtype=s.dtype, device=s.device)


@dataclass(slots=True, eq=False)
class _PrefixPages:
    """The whole pages of one prefix, kept as long as its version is resident or rows use them."""

    source: weakref.ref[torch.Tensor]
    pages: list[int]
    num_rows: int = 0
    is_forgotten: bool = False  # its version left the device before its rows


class PagedMemory:
    """One pool under a budget of bytes."""

    def __init__(self, shape: KVShape, budget_bytes: int, page_tokens: int) -> None:
        self.budget_bytes = budget_bytes
        self.pool = PagePool(shape, page_tokens)
        self._ledger = PageLedger()
        self._most_pages = max(budget_bytes // self.pool.page_bytes, NUM_RESERVED)
        self._prefixes: dict[int, _PrefixPages] = {}  # by the id of its keys; least recently used first
        self._by_first_page: dict[int, _PrefixPages] = {}
        self._dead: list[int] = []  # prefixes whose versions left the device; other threads add to it

    @property
    def allocated_bytes(self) -> int:
        """Bytes held on the device."""
        return self.pool.num_pages * self.pool.page_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of pages that rows have, or are promised; a prefix that no row uses can go at any time."""
        idle = sum(len(prefix.pages) for prefix in tuple(self._prefixes.values()) if not prefix.num_rows)
        return (self._ledger.num_used - idle) * self.pool.page_bytes

    def can_ever_hold(self, *slots: int) -> bool:
        """Whether a row of so many tokens would fit into the empty memory."""
        return self._num_pages(*slots) <= self._most_pages - NUM_RESERVED

    def slot_bytes(self, *slots: int) -> int:
        """Bytes of the pages that so many tokens take."""
        return self._num_pages(*slots) * self.pool.page_bytes

    def take(self, owner: PageOwner, num_tokens: int) -> PagePool | None:
        """Promise `owner` the pages for `num_tokens`, or return None when the budget has no room now."""
        prefix = owner.held_prefix
        num_shared = 0 if prefix is None else prefix[0].shape[1] // self.pool.page_tokens
        num_own = self._num_pages(num_tokens) - num_shared
        self._drop_dead()
        known = None if prefix is None else self._known(prefix)
        if not self._make_room(num_own if known else num_own + num_shared, known):
            return None
        if known is None and prefix is not None and num_shared:
            known = self._load(prefix, num_shared)
        # Nothing fails from here on, so that a device without room leaves all counts as they were.
        self._ledger.promise(num_own)
        if known is not None:
            known.num_rows += 1
        owner.pages = RowPages(self._ledger, self.pool.page_tokens, tuple(known.pages) if known else (), num_own)
        return self.pool

    def release(self, pool: PagePool, owner: PageOwner) -> None:
        """Zero and free what `owner` has; the prefix's pages stay for the next row of its task."""
        assert pool is self.pool
        assert owner.pages is not None
        shared, own = owner.pages.shared, owner.pages.release()
        owner.pages = None
        if shared:
            self._leave(self._by_first_page[shared[0]])
        self._free(own)

    def drop_idle(self) -> None:
        """Give up the pages of prefixes that no row uses."""
        for at in self._idle():
            self._drop(at)

    def _num_pages(self, *slots: int) -> int:
        return sum(pages_for(num_tokens, self.pool.page_tokens) for num_tokens in slots)

    def _known(self, prefix: Prefix) -> _PrefixPages | None:
        """Return a prefix's pages, if they are there, as those used last."""
        known = self._prefixes.pop(id(prefix[0]), None)
        if known is not None:
            self._prefixes[id(prefix[0])] = known
        return known

    def _make_room(self, count: int, needed: _PrefixPages | None) -> bool:
        """Have `count` pages available: from the budget first, then from prefixes that no row uses, but `needed`."""
        if count > self._ledger.num_available:
            self._grow(count - self._ledger.num_available)
        for at in self._idle():
            if count <= self._ledger.num_available:
                break
            if self._prefixes[at] is not needed:
                self._drop(at)
        return count <= self._ledger.num_available

    def _grow(self, missing: int) -> None:
        have = self.pool.num_pages
        num_pages = min(max(have + missing, 2 * have, FIRST_PAGES), self._most_pages)
        if num_pages > have:
            self.pool.grow(num_pages)
            self._ledger.extend(num_pages)

    def _load(self, prefix: Prefix, num_pages: int) -> _PrefixPages:
        self._ledger.promise(num_pages)
        pages = [self._ledger.take_promised() for _ in range(num_pages)]
        try:
            self.pool.put(pages, prefix)
        except RuntimeError:
            self._free(pages)
            raise
        at = id(prefix[0])
        kept = _PrefixPages(weakref.ref(prefix[0], lambda _: self._dead.append(at)), pages)
        self._prefixes[at] = self._by_first_page[pages[0]] = kept
        return kept

    def _idle(self) -> list[int]:
        return [at for at, kept in self._prefixes.items() if not kept.num_rows]

    def _drop_dead(self) -> None:
        while self._dead:
            at = self._dead.pop()
            kept = self._prefixes.get(at)
            # It may have made room meanwhile, and another prefix may stand at its address since.
            if kept is not None and kept.source() is None:
                self._drop(at)

    def _leave(self, kept: _PrefixPages) -> None:
        kept.num_rows -= 1
        if kept.is_forgotten and not kept.num_rows:
            self._free_prefix(kept)

    def _drop(self, at: int) -> None:
        """Know a prefix no more, and free its pages with the last row that uses them: another may get its id."""
        kept = self._prefixes.pop(at)
        kept.is_forgotten = True
        if not kept.num_rows:
            self._free_prefix(kept)

    def _free_prefix(self, kept: _PrefixPages) -> None:
        del self._by_first_page[kept.pages[0]]
        self._free(kept.pages)

    def _free(self, pages: Sequence[int]) -> None:
        self.pool.zero(pages)
        self._ledger.give_back(reversed(pages))
