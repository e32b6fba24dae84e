"""Publish the prompts that ship with softmux into a running server, and say what to paste. Knows no training."""

from __future__ import annotations

from pathlib import Path

from server.demo.backbones import BackboneName
from server.demo.client import DemoClient
from server.demo.curls import curls

__all__ = ["PROMPTS", "curls", "parts", "prompt_folders", "publish"]

PROMPTS = Path(__file__).parent / "prompts"

# PEFT calls them adapter_model.safetensors and adapter_config.json, the authors of P-Tuning model and config.
_FILES = {"weights": "*.safetensors", "config": "*config.json", "manifest": "manifest.json"}


def prompt_folders(backbone: BackboneName) -> list[Path]:
    """Return the folders of a backbone's prompts; a folder is named like its task."""
    return sorted(path for path in (PROMPTS / backbone).iterdir() if path.is_dir())


def parts(folder: Path) -> dict[str, bytes]:
    """Return a prompt as the parts of a publish."""
    return {part: _only(folder, pattern).read_bytes() for part, pattern in _FILES.items()}


def _only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def publish(backbone: BackboneName, url: str) -> list[str]:
    """Publish every prompt of `backbone` under its alias `live` and return the tasks' names.

    Again is harmless: the server knows a source that it has, and answers with the same version. Raises DemoError.
    """
    with DemoClient(url) as client:
        for folder in prompt_folders(backbone):
            client.push(folder.name, parts(folder))
    return [folder.name for folder in prompt_folders(backbone)]
