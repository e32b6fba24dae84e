"""Which pages of the KV memory are free, whose the others are, and which are promised. Plain Python; holds no tensor.

A row is let in only when every page that it may come to need is promised to it, so none that runs is ever stuck; it
takes them one at a time, as it writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

BLANK = 0  # all zeros for ever: what a table says where its row has no page
SCRATCH = 1  # where rows that only fill a step up write
NUM_RESERVED = 2


class PageLedger:
    """The pages of one pool, by number. Promised ones are free still, but no longer to be had."""

    def __init__(self, num_pages: int = NUM_RESERVED) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, NUM_RESERVED - 1, -1))
        self._num_promised = 0

    @property
    def num_available(self) -> int:
        """Pages that can be promised now."""
        return len(self._free) - self._num_promised

    @property
    def num_used(self) -> int:
        """Pages that are taken or promised."""
        return self.num_pages - NUM_RESERVED - self.num_available

    def extend(self, num_pages: int) -> None:
        """Know `num_pages` in all, the new ones free."""
        assert num_pages >= self.num_pages
        self._free[:0] = range(num_pages - 1, self.num_pages - 1, -1)
        self.num_pages = num_pages

    def promise(self, count: int) -> None:
        """Keep `count` pages for somebody; so many must be available."""
        assert 0 <= count <= self.num_available, "promised more pages than there are"
        self._num_promised += count

    def take_promised(self) -> int:
        """Give out one of the promised pages."""
        assert self._num_promised > 0, "took a page that nobody had promised"
        self._num_promised -= 1
        return self._free.pop()

    def withdraw(self, count: int) -> None:
        """End the promise of `count` pages that were not taken."""
        assert 0 <= count <= self._num_promised, "withdrew more pages than were promised"
        self._num_promised -= count

    def give_back(self, pages: Iterable[int]) -> None:
        """Take pages back, the last one given first to go out again."""
        self._free.extend(pages)


@dataclass(slots=True, eq=False)
class RowPages:
    """A row's pages in the order of its keys: the whole pages of its prefix, which are not its own, then its own."""

    ledger: PageLedger
    page_tokens: int
    shared: tuple[int, ...]
    num_promised: int  # own pages that it may still take
    own: list[int] = field(default_factory=list)

    @property
    def table(self) -> Sequence[int]:
        """All pages that the row reads."""
        return (*self.shared, *self.own)

    @property
    def num_shared_tokens(self) -> int:
        """Keys in pages that are not the row's own."""
        return len(self.shared) * self.page_tokens

    def reach(self, num_tokens: int) -> None:
        """Take pages until so many keys have a place. Again is a no-op; it cannot fail within what was promised."""
        while (len(self.shared) + len(self.own)) * self.page_tokens < num_tokens:
            assert self.num_promised > 0, "a row writes more than it was let in for"
            self.own.append(self.ledger.take_promised())
            self.num_promised -= 1

    def release(self) -> list[int]:
        """Give up everything; return the row's own pages, which are free as soon as they are zeroed."""
        self.ledger.withdraw(self.num_promised)
        pages, self.own, self.num_promised = self.own, [], 0
        return pages


def pages_for(num_tokens: int, page_tokens: int) -> int:
    """Return how many pages hold so many tokens."""
    return -(-num_tokens // page_tokens)


def place_of(table: Sequence[int], index: int, page_tokens: int) -> int:
    """Return where a row's key number `index` stands, counted in tokens over all pages of the pool."""
    return table[index // page_tokens] * page_tokens + index % page_tokens


def padded(table: Sequence[int], num_pages: int) -> list[int]:
    """Return the table for a row that has `num_pages` columns: what is no page of its own is blank."""
    return [*table, *[BLANK] * (num_pages - len(table))]
