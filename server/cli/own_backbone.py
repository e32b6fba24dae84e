"""The backbone in a whole model's file, which stays on this machine: is it the one that the server has?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.cli.client import Client
from server.cli.errors import LocalFileError
from server.cli.screen import note

if TYPE_CHECKING:
    import torch

    from prompt_store.backbone_spec import BackboneSpec
    from server.cli.checkpoints.found import Found


def compare_backbone(client: Client, found: Found, said: dict[str, Any]) -> None:
    """Note that what stays here is what is served. Raises LocalFileError when it is another.

    The server cannot look at what it is not sent. A prompt beside a trained backbone gives wrong answers on any other.
    """
    served = _served(client) if found.stays else {}
    if not served:
        return
    from prompt_store.backbone_spec import BackboneSpec
    from prompt_store.formats.checkpoint import Reasons
    from prompt_store.formats.trained_model import own_backbone

    spec, reasons = BackboneSpec(**served), Reasons()
    shapes = _shapes_of_its_kind(found, spec)
    # Without digests to compare with, the weights may stay on the disk: they may be those of a large decoder.
    own = own_backbone(found.tensors.load(found.stays) if spec.weight_digests else shapes, spec)
    if not (own.tensors or own.again):
        note(f"the backbone in the file was not compared: its names are not those of a {spec.model_type}")
    for remark in own.checked(said.get("backbone_trained"), spec, reasons):
        note(remark)
    if told := reasons.noted:
        raise LocalFileError(f"{found.located.name}: {'; '.join(told)} (--set backbone_trained=false)")


def _shapes_of_its_kind(found: Found, spec: BackboneSpec) -> dict[str, torch.Tensor]:
    """Return what stays here, without values. Raises LocalFileError when its names are those of another model."""
    import torch

    from prompt_store.formats.trained_model import foreign_weights

    shapes = {name: torch.empty(found.tensors.entries[name].shape, device="meta") for name in found.stays}
    if foreign := list(foreign_weights(shapes, spec)):
        raise LocalFileError(f"{found.located.name}: {'; '.join(foreign)}")
    return shapes


def _served(client: Client) -> dict[str, Any]:
    spec: dict[str, Any] = client.get("/v1/backbone").get("spec") or {}
    return spec
