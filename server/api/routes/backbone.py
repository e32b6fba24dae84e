"""The route that says what the backbone is and what it can take."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Depends

from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.manifest import HeadKind, Method
from server.api.auth import tenant_access
from server.api.schemas.common import ERRORS
from server.api.schemas.operation import Ability, BackboneLimits, BackboneView, Fingerprint
from server.api.services import ServicesOf
from server.settings import Limits

router = APIRouter(prefix="/v1", dependencies=[Depends(tenant_access)], responses=ERRORS, tags=["backbone"])

_PLACES: dict[Method, PromptPlace | None] = {
    Method.PROMPT_TUNING: "embeds",
    Method.P_TUNING: "embeds",
    Method.MULTITASK_PROMPT_TUNING: "embeds",
    Method.CPT: "embeds",
    Method.PREFIX_TUNING: "kv",
    Method.CARTRIDGE: "kv",
    Method.P_TUNING_V2: "kv",
    Method.NONE: None,
}


@router.get("/backbone")
async def backbone(services: ServicesOf) -> BackboneView:
    """Tell shapes, fingerprint, limits, and which methods and heads the backbone can take, or why it cannot."""
    spec = services.parts.engine.spec
    return BackboneView(
        name=spec.name,
        model_type=spec.model_type,
        is_causal=spec.is_causal,
        dtype=spec.dtype,
        fingerprint=Fingerprint(arch=spec.arch_fingerprint, weights=spec.weights_fingerprint),
        limits=_limits(spec, services.settings.limits),
        methods={method.value: _method(spec, method) for method in Method},
        heads={kind.value: _head(spec, kind) for kind in HeadKind},
        spec=asdict(spec),
    )


def _limits(spec: BackboneSpec, limits: Limits) -> BackboneLimits:
    return BackboneLimits(
        max_positions=spec.max_positions,
        max_inputs=limits.max_inputs,
        max_rows_per_input=limits.max_rows_per_input,
        max_rows=limits.max_rows,
        max_body_bytes=limits.max_body_bytes,
        max_upload_bytes=limits.max_upload_bytes,
    )


def _method(spec: BackboneSpec, method: Method) -> Ability:
    place = _PLACES[method]
    reason = spec.refusals.get(place) if place else None
    return Ability(supported=reason is None, reason=reason)


def _head(spec: BackboneSpec, kind: HeadKind) -> Ability:
    reason: str | None = None
    if kind is HeadKind.GENERATION and spec.lm_head != "causal":
        reason = f"{spec.name} has no causal LM head: it cannot write text"
    elif kind is HeadKind.LABEL_WORDS and spec.lm_head is None:
        reason = f"{spec.name} has no LM head: it cannot score words"
    return Ability(supported=reason is None, reason=reason)
