"""The route that says what the backbone is and what it can take."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Depends

from prompt_store.backbone_spec import BackboneSpec
from server.abilities import Reasons, heads, methods
from server.api.auth import tenant_access
from server.api.schemas.common import ERRORS
from server.api.schemas.operation import Ability, BackboneLimits, BackboneView, Fingerprint
from server.api.services import ServicesOf
from server.settings import Limits

router = APIRouter(prefix="/v1", dependencies=[Depends(tenant_access)], responses=ERRORS, tags=["backbone"])


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
        methods=_abilities(methods(spec)),
        heads=_abilities(heads(spec)),
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


def _abilities(reasons: Reasons) -> dict[str, Ability]:
    return {name: Ability(supported=reason is None, reason=reason) for name, reason in reasons.items()}
