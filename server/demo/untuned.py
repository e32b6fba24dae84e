"""A demo task without its soft prompt, to measure beside it: same template, head and label words, same backbone."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load, save

from server.demo.publish import parts

_HEAD = "base_model."  # PEFT's name for what was trained besides the prompt
_SOFT_SLOT = re.compile(r"<soft:\d+>")


def without_prompt(folder: Path) -> dict[str, bytes]:
    """Return the parts of a publish that leave the soft prompt out of the task in `folder`."""
    shipped = parts(folder)
    tensors = load(shipped["weights"])
    head = {f"head.{name.removeprefix(_HEAD)}": t for name, t in tensors.items() if name.startswith(_HEAD)}
    manifest = json.loads(shipped["manifest"])
    manifest["template"] = _SOFT_SLOT.sub("", manifest["template"])
    manifest["description"] = f"{folder.name} without its soft prompt, to compare"
    return {"weights": save(head), "manifest": json.dumps(manifest).encode()}
