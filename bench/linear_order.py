"""Is there an order of calls, each between its beginning and its answer, in which a plain model answers the same?

That is what linearizable means. Calls whose caller died may have happened or not. Knows no store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.store_model import RAWS, REFUSED, Call, ModelStore


@dataclass(frozen=True, slots=True)
class Made:
    """A call as it was seen: the moments are counted, not measured. `answer` is None when nobody heard it."""

    call: Call
    began: int
    ended: int | None = None
    answer: str | None = None


def explains(calls: Sequence[Made], final: str) -> bool:
    """Whether some order of the calls gives every answer that was heard, and leaves the store as `final` shows it."""
    made = [part for call in calls for part in _parts(call)]
    before = [_before(made, one) for one in made]
    heard = sum(1 << place for place, one in enumerate(made) if one.ended is not None)
    by_end = sorted(range(len(made)), key=lambda place: made[place].ended or 1 << 30)  # mostly the order it was
    seen: set[tuple[int, ModelStore]] = set()
    left = [(0, ModelStore())]
    while left:
        done, state = left.pop()
        if done & heard == heard and state.shown() == final:
            return True
        for place in reversed(by_end):
            if done >> place & 1 or before[place] & ~done:
                continue
            answer, then = state.after(made[place].call)
            # What nobody heard changed something, or need not be thought of.
            fits = then is not state if made[place].answer is None else answer == made[place].answer
            if fits and (key := (done | 1 << place, then)) not in seen:
                seen.add(key)
                left.append(key)
    return False


def _before(made: Sequence[Made], one: Made) -> int:
    """Return, as bits, the calls that had been answered when this one was made."""
    return sum(1 << place for place, other in enumerate(made) if other.ended is not None and other.ended < one.began)


def _parts(made: Made) -> Iterator[Made]:
    """Yield a collect as what it erased, which need not be at one moment; anything else as it is."""
    if made.call.kind != "collect":
        yield made
        return
    for raw in RAWS:
        erase = Call("erase", made.call.task, raw)
        if made.answer is None:
            yield Made(erase, made.began)
        elif int(made.answer) & len(raw):
            yield Made(erase, made.began, made.ended, "")


__all__ = ["REFUSED", "Made", "explains"]
