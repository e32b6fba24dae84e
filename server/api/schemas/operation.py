"""Answers of probes, and of what the backbone can do."""

from __future__ import annotations

from typing import Any

from server.api.schemas.common import View


class Livez(View):
    """Whether the worker is alive."""

    alive: bool
    heartbeat_age_s: float


class Readyz(View):
    """Whether this replica should get requests, and everything that this follows from."""

    ready: bool
    reasons: list[str]
    backbone: str
    draining: bool
    num_inside: int
    num_running: int
    num_waiting: int
    num_resident: int
    store_stale_s: float | None  # since the store answered last, while it does not; what is here is served on


class VersionAnswer(View):
    """What runs here."""

    name: str
    version: str


class DrainAnswer(View):
    """What is still inside after the door was shut."""

    draining: bool
    num_inside: int


class Ability(View):
    """Whether this backbone can take something, and why not."""

    supported: bool
    reason: str | None = None


class Fingerprint(View):
    """Digests of the backbone's shapes and of its weights."""

    arch: str
    weights: str


class BackboneLimits(View):
    """What one request or publish may bring."""

    max_positions: int
    max_inputs: int
    max_rows_per_input: int
    max_rows: int
    max_body_bytes: int
    max_upload_bytes: int


class BackboneView(View):
    """The backbone as a publisher needs to know it. `spec` is what softmux's own checks read."""

    name: str
    model_type: str
    is_causal: bool
    dtype: str
    fingerprint: Fingerprint
    limits: BackboneLimits
    methods: dict[str, Ability]
    heads: dict[str, Ability]
    spec: dict[str, Any]
