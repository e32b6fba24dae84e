"""A demo task without its soft prompt, to measure beside it: same template, head and label words, same backbone."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import PublisherManifest
from server.demo.publish import parts

_TRAINED_MODULES = "base_model."  # PEFT's name for what was trained besides the prompt
_SOFT_SLOT = re.compile(r"<soft:\d+>")


def without_prompt(folder: Path, spec: BackboneSpec) -> Artifact:
    """Return the task in `folder` with the soft prompt left out."""
    shipped = parts(folder)
    tensors = load(shipped["weights"])
    head = {
        f"head.{name.removeprefix(_TRAINED_MODULES)}": tensor
        for name, tensor in tensors.items()
        if name.startswith(_TRAINED_MODULES)
    }
    manifest = json.loads(shipped["manifest"])
    manifest["template"] = _SOFT_SLOT.sub("", manifest["template"])
    publisher = PublisherManifest.from_json(json.dumps(manifest).encode())
    return convert(Checkpoint(head), publisher, spec).artifact
