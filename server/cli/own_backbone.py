"""The backbone in a whole model's file, which stays on this machine: is it the one that the server has?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.cli.client import Client
from server.cli.errors import LocalFileError
from server.cli.screen import note

if TYPE_CHECKING:
    from server.cli.checkpoints.found import Found


def compare_backbone(client: Client, found: Found, said: dict[str, Any]) -> None:
    """Note that what stays here is what is served. Raises LocalFileError when it is another.

    The server cannot look at what it is not sent. A prompt beside a trained backbone gives wrong answers on any other.
    """
    served = _served(client) if found.stays else {}
    if not served.get("weight_digests"):
        return
    from prompt_store.backbone_spec import BackboneSpec
    from prompt_store.formats.checkpoint import Reasons
    from prompt_store.formats.trained_model import own_backbone

    spec, reasons = BackboneSpec(**served), Reasons()
    own = own_backbone(found.tensors.load(found.stays), spec)
    for remark in own.checked(said.get("backbone_trained"), spec, reasons):
        note(remark)
    if told := reasons.noted:
        raise LocalFileError(f"{found.located.name}: {'; '.join(told)} (--set backbone_trained=false)")


def _served(client: Client) -> dict[str, Any]:
    spec: dict[str, Any] = client.get("/v1/backbone").get("spec") or {}
    return spec
