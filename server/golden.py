"""Golden examples: what a publisher promised beside what came out (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from pydantic import JsonValue

from prompt_store.manifest import GoldenExample, HeadKind

_SHOWN_CHARS = 200


def promised_outputs(example: GoldenExample, kind: HeadKind) -> list[JsonValue]:
    """Return one promised output for each input: a lone input may have its output without a list around it."""
    outputs = example.outputs
    if not isinstance(outputs, list):
        return [outputs]
    if isinstance(example.inputs, list) or kind is not HeadKind.TOKEN_CLASSIFICATION:
        return outputs
    # One output of a token classification is itself a list, of entities.
    is_wrapped = bool(outputs) and all(isinstance(output, list) for output in outputs)
    return outputs if is_wrapped else [outputs]


def differences(promised: JsonValue, found: JsonValue, tolerance: float, path: str) -> Iterator[str]:
    """Say where `found` breaks the promise. An object promises only the members it has; numbers to `tolerance`."""
    if isinstance(promised, Mapping) and isinstance(found, Mapping):
        for name, value in promised.items():
            if name in found:
                yield from differences(value, found[name], tolerance, f"{path}.{name}")
            else:
                yield f"{path}.{name} is missing; promised {_shown(value)}"
    elif isinstance(promised, list) and isinstance(found, Sequence) and not isinstance(found, str):
        yield from _list_differences(promised, found, tolerance, path)
    elif not _is_same(promised, found, tolerance):
        yield f"{path} is {_shown(found)}; promised {_shown(promised)}"


def _list_differences(
    promised: list[JsonValue], found: Sequence[JsonValue], tolerance: float, path: str
) -> Iterator[str]:
    if len(promised) != len(found):
        yield f"{path} has {len(found)} entries; promised {len(promised)}"
        return
    for index, (value, came) in enumerate(zip(promised, found, strict=True)):
        yield from differences(value, came, tolerance, f"{path}[{index}]")


def _is_same(promised: JsonValue, found: JsonValue, tolerance: float) -> bool:
    if _is_number(promised) and _is_number(found):
        return abs(promised - found) <= tolerance
    return type(promised) is type(found) and promised == found


def _is_number(value: JsonValue) -> TypeGuard[int | float]:
    # bool is an int to Python, and no number to JSON.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
