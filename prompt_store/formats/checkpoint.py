"""What somebody else's training code left on disk, as it was sent: tensors and its own JSON. Trusts neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Never

import torch

from prompt_store.errors import CheckpointError, NoSoftPromptError, TooLargeError
from prompt_store.strict_json import StrictJsonError, parse

MAX_CONFIG_BYTES = 256 << 10
MAX_CONFIG_DEPTH = 8
_SHOWN = 12  # names in a message
_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One upload before it is understood. `config` is the checkpoint's own JSON, e.g. adapter_config.json."""

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any] | None = None

    def describe(self) -> str:
        """Say what was seen, short enough for an error message."""
        tensors = shorten(f"{name} {list(t.shape)}" for name, t in sorted(self.tensors.items()))
        fields = "no config" if self.config is None else f"config fields: {shorten(sorted(map(str, self.config)))}"
        return f"saw tensors: {tensors}; {fields}"


def read_config(raw: bytes) -> dict[str, Any]:
    """Read a checkpoint's JSON within caps on bytes and depth. Raises TooLargeError, CheckpointError."""
    if len(raw) > MAX_CONFIG_BYTES:
        raise TooLargeError(f"the config has {len(raw)} bytes; at most {MAX_CONFIG_BYTES} are taken")
    try:
        config = parse(raw, MAX_CONFIG_DEPTH)
    except StrictJsonError as error:
        raise CheckpointError(f"the config {_clip(str(error))}") from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"the config is a JSON {type(config).__name__}; expected an object, as adapter_config.json is"
        )
    return config


class Reasons:
    """Collect every reason against a checkpoint, so that a publisher hears all of them at once.

    A reason may name the narrower error that it is; that is raised where no other kind of reason stands beside it.
    """

    def __init__(self) -> None:
        self._reasons: list[str] = []
        self._errors: set[type[CheckpointError]] = set()

    @property
    def noted(self) -> tuple[str, ...]:
        """Every reason so far."""
        return tuple(self._reasons)

    def add(self, reason: str, error: type[CheckpointError] = CheckpointError) -> None:
        """Note one more reason."""
        self._reasons.append(reason)
        self._errors.add(error)

    def expect(self, holds: bool, reason: str, error: type[CheckpointError] = CheckpointError) -> bool:
        """Note `reason` unless `holds`; return `holds`."""
        if not holds:
            self.add(reason, error)
        return holds

    def check(self) -> None:
        """Raise CheckpointError if any reason was noted."""
        if self._reasons:
            self.refuse()

    def refuse(self) -> Never:
        """Raise CheckpointError, or the one narrower error that all reasons are, with what was noted."""
        error = next(iter(self._errors)) if len(self._errors) == 1 else CheckpointError
        if NoSoftPromptError in self._errors:  # what else is missing of a soft prompt says nothing more
            error = NoSoftPromptError
        raise error(*self._reasons)


def shorten(names: Iterable[str]) -> str:
    """List names for a message: the first few, each of them short."""
    shown = [_clip(name) for name in names]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return (", ".join(shown[:_SHOWN]) + more) or "none"


def _clip(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
    return shown if shown.isprintable() else ascii(shown)  # a message may end up on a terminal
