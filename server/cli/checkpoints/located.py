"""Which files of a folder are the checkpoint, by their names. Opens nothing but indices; guesses nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from server.cli.checkpoints.reading import listing, read_object, reading
from server.cli.checkpoints.unfinished import refuse_unfinished
from server.cli.errors import LocalFileError

PEFT_CONFIG = "adapter_config.json"
STORE_WEIGHTS = ("encoder.pt", "decoder.pt")  # of TGIS, for an encoder-decoder
FEW_SHOT_WEIGHTS, FEW_SHOT_CONFIG = "embeddings.pth", "wrapper_config.json"
MODEL_CONFIG = "config.json"
_RUN_CONFIGS = (MODEL_CONFIG, "config.yaml", "config.yml")  # of a model, of OpenPrompt, of caikit
_PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_MODEL_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDICES = tuple(f"{name}.index.json" for name in _MODEL_WEIGHTS)
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".nemo", ".npy", ".prompt")
# Training's own state: pickles of whatever the trainer held, of no use to a server, never opened.
_NEVER = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*|random_states.*)\.(bin|pt|pth|pkl)")
_TRAINING_STEP = re.compile(r"checkpoint-\d+")
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Located:
    """The files that a path means: one weights file, or the parts of one; its config; and what to tell about them."""

    path: Path
    weights: tuple[Path, ...]
    config: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the weights, for messages."""
        return self.weights[0].name if len(self.weights) == 1 else f"{len(self.weights)} files"


def locate(path: Path) -> Located:
    """Find the checkpoint that `path` names. Raises LocalFileError with what is there instead."""
    _require_there(path)
    with reading(path):
        is_folder = path.is_dir()
        names = sorted(child.name for child in path.iterdir()) if is_folder else []
    if not is_folder:
        return _lone(path)
    if not names:
        raise LocalFileError(f"{path} is an empty folder: name the one where your training or download put its files")
    refuse_unfinished(path, names)
    forms = [form for form in (_peft(path, names), _few_shot(path, names)) if form]
    if len(forms) > 1:
        raise LocalFileError(
            f"{path} holds both a PEFT adapter and a P-Tuning few-shot checkpoint, and none is guessed: "
            f"name the file, {path / forms[0].weights[0].name} or {path / forms[1].weights[0].name}"
        )
    return forms[0] if forms else _model(path, names) or _only_file(path, names)


def _require_there(path: Path) -> None:
    try:
        with reading(path):
            path.stat()
    except LocalFileError as error:
        parent = path.parent
        if not isinstance(error.__cause__, FileNotFoundError) or not parent.is_dir():
            raise
        names = sorted(child.name for child in parent.iterdir())
        raise LocalFileError(f"there is no {path}; {parent} holds: {listing(names)}") from error


def _lone(file: Path) -> Located:
    if _NEVER.fullmatch(file.name):
        raise LocalFileError(f"{file} is the training's own state and is never opened: name the weights' file")
    if file.suffix not in _SUFFIXES:
        raise LocalFileError(
            f"{file} is not a checkpoint's file: expected {', '.join(_SUFFIXES)}, or the folder that holds it"
        )
    if file.name in _PEFT_WEIGHTS:
        return Located(file, (file,), _if_there(file.parent, PEFT_CONFIG))
    if file.name == FEW_SHOT_WEIGHTS:
        return Located(file, (file,), _if_there(file.parent, FEW_SHOT_CONFIG))
    return Located(file, (file,), _if_there(file.parent, *_RUN_CONFIGS))


def _peft(folder: Path, names: list[str]) -> Located | None:
    weights = [name for name in _PEFT_WEIGHTS if name in names]
    if PEFT_CONFIG not in names and not weights:
        return None
    if PEFT_CONFIG not in names:
        raise LocalFileError(
            f"{folder} has {weights[0]} but no {PEFT_CONFIG}, which says the method: copy it from where "
            f"the adapter was saved. The folder holds: {listing(names)}"
        )
    if not weights:
        raise LocalFileError(
            f"{folder} has {PEFT_CONFIG} but neither {' nor '.join(_PEFT_WEIGHTS)}: save or download "
            f"the adapter whole. The folder holds: {listing(names)}"
        )
    others = _folders_with(folder, PEFT_CONFIG, depth=1)
    steps = [name for name in others if _TRAINING_STEP.fullmatch(name)]
    if second := [name for name in others if name not in steps]:
        raise LocalFileError(
            f"{folder} holds {len(second) + 1} adapters, and none is guessed: name {folder / weights[0]}, or the "
            f"folder {', '.join(str(folder / name) for name in second)}"
        )
    notes = [f"{weights[0]} is taken, {weights[1]} beside it is not"] if len(weights) > 1 else []
    notes += [f"taken from the folder itself, not from {listing(steps)}"] if steps else []
    return Located(folder, (folder / weights[0],), folder / PEFT_CONFIG, tuple(notes))


def _few_shot(folder: Path, names: list[str]) -> Located | None:
    if FEW_SHOT_WEIGHTS not in names:
        if FEW_SHOT_CONFIG not in names:
            return None
        raise LocalFileError(
            f"{folder} has {FEW_SHOT_CONFIG} of P-Tuning's few-shot training but no {FEW_SHOT_WEIGHTS}, the prompt "
            f"itself; it holds: {listing(names)}"
        )
    return Located(folder, (folder / FEW_SHOT_WEIGHTS,), _if_there(folder, FEW_SHOT_CONFIG))


def _model(folder: Path, names: list[str]) -> Located | None:
    config = _if_there(folder, MODEL_CONFIG)
    found = [name for name in _MODEL_WEIGHTS if name in names]
    if found:
        notes = (f"{found[0]} is taken, {found[1]} beside it is not",) if len(found) > 1 else ()
        return Located(folder, (folder / found[0],), config, notes)
    index = next((name for name in _INDICES if name in names), None)
    return Located(folder, _shards(folder / index, names), config) if index else None


def _shards(index: Path, names: list[str]) -> tuple[Path, ...]:
    _, found = read_object(index)
    shards = found.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(_is_name(shard) for shard in shards.values()):
        raise LocalFileError(f"{index} has no weight_map of tensors to file names: it is not an index of shards")
    wanted = sorted(set(shards.values()))
    missing = [name for name in wanted if name not in names]
    if missing:
        raise LocalFileError(
            f"{index} names {len(wanted)} shards, of which {len(missing)} are not there: {listing(missing)}. "
            "Finish the download"
        )
    return tuple(index.parent / name for name in wanted)


def _is_name(shard: object) -> bool:
    return isinstance(shard, str) and shard == Path(shard).name and shard not in ("", ".", "..")


def _only_file(folder: Path, names: list[str]) -> Located:
    files = [name for name in names if name.endswith(_SUFFIXES) and not _NEVER.fullmatch(name)]
    files = [name for name in files if (folder / name).is_file()]
    if sorted(files) == sorted(STORE_WEIGHTS):
        return Located(folder, tuple(folder / name for name in STORE_WEIGHTS), _if_there(folder, *_RUN_CONFIGS))
    if len(files) == 1:
        return Located(folder, (folder / files[0],), _if_there(folder, *_RUN_CONFIGS))
    if files:
        raise LocalFileError(
            f"{folder} holds {len(files)} files of weights, and none is guessed: name one of "
            f"{listing([str(folder / name) for name in files])}"
        )
    raise LocalFileError(_nothing_found(folder, names))


def _nothing_found(folder: Path, names: list[str]) -> str:
    below = sorted({*_folders_with(folder, PEFT_CONFIG), *(_folders_with(folder, FEW_SHOT_WEIGHTS))})
    below += [name for weights in (*_MODEL_WEIGHTS, *_INDICES) for name in _folders_with(folder, weights)]
    if below:
        return f"{folder} holds no weights itself; its sub-folders do, and none is guessed: {_paths(folder, below)}"
    text = f"{folder} holds no weights (a file that ends in {', '.join(_SUFFIXES)}); it holds: {listing(names)}"
    if any(name.startswith(("tokenizer", "vocab", "merges", "spiece")) for name in names):
        return f"{text}. These are a tokenizer's files: name the folder where the prompt was saved"
    return text


def _paths(folder: Path, below: list[str]) -> str:
    return listing([str(folder / name) for name in dict.fromkeys(below)])


def _folders_with(folder: Path, name: str, depth: int = _DEPTH) -> list[str]:
    patterns = ["/".join(["*"] * level + [name]) for level in range(1, depth + 1)]
    found = (file for pattern in patterns for file in folder.glob(pattern))
    return sorted(str(file.parent.relative_to(folder)) for file in found)


def _if_there(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
