"""From what the publisher said to all that has to be said: by this disk, then by the backbone, then by the user."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from server.cli.questions import answer, missing, writes_text

if TYPE_CHECKING:
    from server.cli.checkpoints.found import Found
    from server.cli.client import Client
    from server.cli.task_rows import Rows


def complete(found: Found, said: dict[str, Any], client: Client, rows: Rows | None, is_asked: bool) -> dict[str, Any]:
    """Return the manifest to send. Raises MissingAnswerError, and like `Client.get`.

    The backbone is asked only where the files leave something open that it decides; the user only with `is_asked`,
    that is, not where a base version has the rest.
    """
    if found.is_artifact:
        return said
    from server.cli.checkpoints.families import tell

    @cache
    def backbone() -> dict[str, Any]:
        view: dict[str, Any] = client.get("/v1/backbone")
        return view

    told = tell(found)
    said = said | ({"fingerprint": _own_backbone(found, backbone())} if _is_own(found, said, told.family) else {})
    if not is_asked:
        return said
    known = said | ({"prompt_task_id": 0} if rows is not None else {})
    return said | answer(missing(found, told, known, lambda: writes_text(backbone())))


def _is_own(found: Found, said: dict[str, Any], family: str | None) -> bool:
    """Whether the backbone that was trained with the prompt lies beside it, and nobody named another."""
    from server.cli.checkpoints.few_shot import backbone_beside

    folder = found.located.weights[0].parent
    return family == "ptuning-few-shot" and "fingerprint" not in said and backbone_beside(folder) is not None


def _own_backbone(found: Found, backbone: dict[str, Any]) -> dict[str, Any]:
    from server.cli.checkpoints.few_shot import backbone_beside

    arch = backbone["fingerprint"]["arch"]  # of the same weights the same, of others the weights tell
    return {"arch": arch, "weights": backbone_beside(found.located.weights[0].parent)}
