"""What a checkpoint is and what becomes of it, told from names and shapes alone, before any server has seen it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.cli.checkpoints.found import Found
from server.cli.checkpoints.tensors import Entry

if TYPE_CHECKING:
    from prompt_store.formats import Checkpoint

PEFT = "peft"
_BAKED = {
    "PROMPT_TUNING": "its rows go in front of the text as they are",
    "P_TUNING": "its rows go in front of the text as they are: PEFT saved the encoder's output, so no encoder is run",
    "PREFIX_TUNING": "its rows become keys and values of every layer: PEFT saved the projection's output",
    "CPT": "its rows go in front of the text as they are",
    "CARTRIDGE": "its rows become keys and values of every layer",
    "MULTITASK_PROMPT_TUNING": "the rows of one task are multiplied out once, in float32: prompt * (cols @ rows)",
}
FATES = {
    "artifact": "published as it is, byte by byte: the same version on every server",
    "ptuning-v1": "baked once at publish, in float32: LSTM and MLP run over the rows, and never again in a request",
    "ptuning-few-shot": "baked once at publish, in float32; its training changed the backbone too, so only a server of "
    "exactly that backbone takes it",
    "ptuning-v2": "its rows become keys and values of every layer",
    "ptuning-v2-prompt": "its rows go in front of the text, which is embedded twice, as in its training",
    "prefix-tuning-original": "baked once at publish, in float32, to keys and values of every layer, or to rows in "
    "front of the text if it was trained so; of BART's three prefixes each goes to an attention of its own",
    "cartridges": "its frozen and its trained tokens become keys and values of every layer",
    "openprompt": "its rows go where the template has them; an encoder is run once at publish, in float32",
    "nemo": "its table's rows go where the template has them; where the table was never filled, its encoder is run "
    "once at publish, in float32",
    "tgis": "its rows go in front of the text as they are; on an encoder-decoder encoder.pt's do, and decoder.pt's go "
    "in front of what is written",
    "chatglm": "keys and values of a ChatGLM, which no server here has",
    "t5x": "its rows go in front of the text as they are, on a T5",
    "raw": "served as it is",
}
_PROJECTED = "baked once at publish, in float32: the projection turns the rows into keys and values of every layer"
_NOT_PROMPTS = {
    *("LORA", "ADALORA", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "IA3", "FOURIERFT", "XLORA", "HRA", "VBLORA", "BONE"),
    *("LN_TUNING", "POLY", "RANDLORA", "SHIRA", "MISS", "ROAD", "WAVEFT", "DELORA", "OSF", "TRAINABLE_TOKENS"),
}


@dataclass(frozen=True, slots=True)
class Told:
    """A checkpoint's family by name, what becomes of it, and why no server takes it, if none does."""

    family: str | None
    fate: str | None = None
    refusal: str | None = None


def tell(found: Found) -> Told:
    """Name the family of a checkpoint without guessing."""
    if found.is_peft:
        return _peft(str(found.fields["peft_type"]))
    from prompt_store.errors import CheckpointError
    from prompt_store.formats.recognise import recognise

    checkpoint = _valueless(found)
    try:
        family = recognise(checkpoint)
    except CheckpointError as error:
        return Told(None, refusal="; ".join(error.reasons))
    if not family.needs:  # recognised only to be refused by name
        return Told(family.name, refusal=_refusal_of(family.name, checkpoint))
    is_baked = family.name == "ptuning-v2" and is_projected(found.entries)
    return Told(family.name, _PROJECTED if is_baked else FATES[family.name])


def is_projected(entries: Mapping[str, Entry]) -> bool:
    """Whether a P-Tuning v2 prefix stands behind a projection."""
    return any(name.startswith("prefix_encoder.trans.") for name in entries)


def _peft(peft_type: str) -> Told:
    if peft_type in _NOT_PROMPTS:
        return Told(
            PEFT,
            refusal=f"peft_type {peft_type} changes the backbone's layers; softmux serves soft prompts on a frozen "
            f"backbone: {', '.join(_BAKED)}",
        )
    return Told(PEFT, f"{peft_type}: {_BAKED.get(peft_type, 'the server says whether it takes this method')}")


def _valueless(found: Found) -> Checkpoint:
    import torch

    from prompt_store.formats import Checkpoint

    shapes = {name: torch.empty(entry.shape, device="meta") for name, entry in found.entries.items()}
    return Checkpoint(shapes, found.config.fields if found.config is not None else None)


def _refusal_of(name: str, checkpoint: Checkpoint) -> str:
    """Return the words in which the library refuses a family; it looks at no backbone to do so."""
    from prompt_store.errors import CheckpointError
    from prompt_store.formats.refused import NOT_TAKEN
    from prompt_store.manifest import PublisherManifest

    family = next(family for family in NOT_TAKEN if family.name == name)
    try:
        family.convert(checkpoint, PublisherManifest(), None)  # type: ignore[arg-type]
    except CheckpointError as error:
        return "; ".join(error.reasons)
    return f"{name} checkpoints are not taken"
