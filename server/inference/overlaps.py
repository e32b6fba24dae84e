"""Entities of overlapping windows as those of one text, joined as transformers joins the chunks of a text (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from typing import Any

from pydantic import JsonValue


def without_overlaps(windows: Sequence[Sequence[JsonValue]]) -> list[JsonValue]:
    """Return the entities of all windows in text order: of those that overlap the longest, then the surest.

    Entities of different fields never overlap.
    """
    if len(windows) == 1:
        return list(windows[0])
    found: list[Any] = list(chain.from_iterable(windows))
    fields = list(dict.fromkeys(entity.get("field") for entity in found))
    in_order = sorted(found, key=lambda entity: (fields.index(entity.get("field")), entity["start"]))
    kept: list[JsonValue] = []
    for _, entities in groupby(in_order, key=lambda entity: entity.get("field")):
        kept += _kept(entities)
    return kept


def _kept(entities: Iterator[Any]) -> Iterator[Any]:
    best = next(entities)
    for entity in entities:
        if not best["start"] <= entity["start"] < best["end"]:
            yield best
            best = entity
        elif _weight(entity) > _weight(best):
            best = entity
    yield best


def _weight(entity: Any) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
