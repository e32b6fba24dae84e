"""The backbone that a whole-model file brings along: it must be the one that is served, for it is left out.

P-Tuning v2's scripts freeze it, but edited ones may have trained it too; such a prompt is wrong on any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import TrainedBackboneError
from prompt_store.formats.checkpoint import Reasons, shorten
from prompt_store.weight_digests import group_digests


@dataclass(frozen=True, slots=True)
class OwnBackbone:
    """A file's copy of the backbone: its tensors by their names below the backbone, and again where a class has two."""

    tensors: Mapping[str, torch.Tensor]
    again: Mapping[str, torch.Tensor]

    def checked(self, is_trained: bool | None, spec: BackboneSpec, reasons: Reasons) -> tuple[str, ...]:
        """Note if it is another than the one served; return what its user should know.

        `is_trained` is what the publisher says of it: False takes it at their word.
        """
        if not self.tensors and not self.again:
            return ()
        count = f"{len(self.tensors) + len(self.again)} tensors"
        if not spec.weight_digests:
            return (f"backbone in the file ignored, and not compared with {spec.name}: {count}",)
        others = self._other_groups(spec)
        if not others:
            return (f"backbone in the file ignored: its {count} are those of {spec.name}",)
        if is_trained is False:
            return (f"backbone in the file ignored, though it is another than {spec.name} in {shorten(others)}",)
        if is_trained is None:
            reasons.add(
                f"the file's backbone is not the one served: {shorten(others)} differ from {spec.name}, or are not "
                "whole. Was it trained too, or is it another model's? Serve the backbone that was saved with the "
                "prompt; if training froze it and only rounding differs, say backbone_trained: false in the manifest",
                TrainedBackboneError,
            )
        return ()

    def _other_groups(self, spec: BackboneSpec) -> list[str]:
        found = [group_digests(copy.items(), spec.dtype) for copy in (self.tensors, self.again)]
        return sorted({group for copy in found for group in copy if copy[group] != spec.weight_digests.get(group)})
