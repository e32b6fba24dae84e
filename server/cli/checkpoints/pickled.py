"""What stands in a pickle, as names and tensors: state dicts however nested, and the arguments beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cli.errors import LocalFileError

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model_state_dict")
_DEPTH = 3
# What the training of P-Tuning v1 on LAMA was told, as far as it decides an answer; paths and the like stay here.
_LAMA_ARGUMENTS = (
    "model_name",
    "template",
    "pseudo_token",
    "use_original_template",
    "use_lm_finetune",
    "vocab_strategy",
    "relation_id",
)


@dataclass(frozen=True, slots=True)
class Pickled:
    """Tensors by name, and the config that the file itself carries, if it does."""

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def read_pickled(found: Any, file: Path) -> Pickled:
    """Sort what `load_pickle` returned. Raises LocalFileError."""
    import torch

    if isinstance(found, torch.Tensor):
        return _lone(found, file)
    if not isinstance(found, dict):
        raise LocalFileError(f"{file} holds a {type(found).__name__}; expected a dict of tensors by name")
    if isinstance(found.get("embedding"), dict) and "args" in found:
        arguments = _lama_arguments(found["args"], file)
        note = "the scores and times of its training stay here"
        return Pickled(_flat(found["embedding"], file), arguments, (note,))
    for wrapper in _WRAPPERS:
        if isinstance(found.get(wrapper), dict):
            left = sorted(str(name)[:40] for name in found if name != wrapper)
            notes = (f"taken from its {wrapper!r}; {', '.join(left[:8])} beside it stay here",) if left else ()
            return Pickled(_flat(found[wrapper], file), None, notes)
    return Pickled(_flat(found, file))


def _lone(tensor: torch.Tensor, file: Path) -> Pickled:
    if tensor.dim() != 2:
        raise LocalFileError(
            f"{file} holds one tensor {list(tensor.shape)}; alone, only the rows of a prompt are understood: "
            "[virtual tokens, embedding width]"
        )
    if file.stem == "encoder":
        raise LocalFileError(
            f"{file} is a prompt for the encoder of an encoder-decoder (TGIS, caikit); no such backbone is served yet"
        )
    note = "one tensor without a name: taken as the rows of a prompt in front of the text"
    return Pickled({"embeds": tensor.detach()}, None, (note,))


def _flat(found: Mapping[Any, Any], file: Path, prefix: str = "", depth: int = 0) -> dict[str, torch.Tensor]:
    """Join the names of nested state dicts with dots, as one module's state dict would."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for name, value in found.items():
        whole = f"{prefix}{name}"
        if isinstance(value, torch.Tensor):
            tensors[whole] = value.detach()
        elif isinstance(value, Mapping) and depth < _DEPTH:
            tensors |= _flat(value, file, f"{whole}.", depth + 1)
        elif isinstance(value, Mapping | list | tuple):
            raise LocalFileError(f"{file} is not a dict of tensors: {whole[:80]!r} holds a {type(value).__name__}")
    if not tensors and not prefix:
        held = ", ".join(f"{str(name)[:40]} ({type(value).__name__})" for name, value in list(found.items())[:8])
        raise LocalFileError(f"{file} holds no tensors: {held or 'nothing'}")
    return tensors


def _lama_arguments(said: Any, file: Path) -> dict[str, Any]:
    arguments = said if isinstance(said, dict) else getattr(said, "__dict__", None)
    if arguments is None:
        raise LocalFileError(f"{file} has args of type {type(said).__name__}; expected the training's arguments")
    known = {name: arguments[name] for name in _LAMA_ARGUMENTS if name in arguments}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items() if _plain(value)}


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(item, str | int | float | bool) for item in value) and len(value) < 64
    return value is None or isinstance(value, str | int | float | bool)
