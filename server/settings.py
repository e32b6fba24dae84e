"""Every setting of the server in one frozen tree. The only module that reads the environment (`SOFTMUX_*`).

A nested setting is named with two underscores: `SOFTMUX_LIMITS__MAX_UPLOAD_BYTES`.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Limits(BaseModel):
    """What one request may cost, and how many are let in. Over a limit is a 4xx, never a slow server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: Count = 4 << 20  # a JSON body
    max_json_depth: Count = 32
    max_upload_bytes: Count = 512 << 20  # one publish, all its parts
    max_uploads_in_flight: Count = 4
    max_inputs: Count = 256  # per request, over all requests of a batch call
    max_rows_per_input: Count = 128  # windows of one long context, or choices of one question
    max_rows: Count = 512  # per request, over all of its inputs' windows and choices
    max_requests_in_flight: Count = 512
    body_timeout_s: Seconds = 30.0  # a JSON body, from its first byte to its last
    chunk_timeout_s: Seconds = 30.0  # between two chunks of an upload
    max_request_timeout_s: Seconds = 600.0  # caps the header X-Request-Timeout
    default_request_timeout_s: Seconds = 300.0
    max_heartbeat_age_s: Seconds = 60.0  # an older one turns /livez red
    high_water: Annotated[float, Field(gt=0, le=1)] = 0.9  # share of the waiting rows that turns /readyz red


class EngineLimits(BaseModel):
    """How much the engine may hold and run at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_rows: Count = 64
    max_step_tokens: Count = 4096
    max_waiting_rows: Count = 1024
    max_waiting_tokens: Count = 262_144
    kv_budget_bytes: Count = 2 << 30
    resident_budget_bytes: Count = 1 << 30
    # Weights held in float32 for a bfloat16 backbone, where the CPU multiplies those faster.
    wide_weight_bytes: Annotated[int, Field(ge=0)] = 512 << 20
    share_prefix_from: Count = 256  # virtual tokens: longer prefixes are held once for a task, not once for each row
    kv_layout: Literal["auto", "slots", "pages"] = "auto"  # of running rows' keys; auto: pages on CUDA, else slots
    kv_page_tokens: Annotated[int, Field(ge=16, multiple_of=16)] = 32


class Residency(BaseModel):
    """Where soft prompts are kept between the store and the device, and how long a request waits for one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host_budget_bytes: Annotated[int, Field(ge=0)] = 2 << 30  # of artifacts in host memory
    max_load_wait_s: Seconds = 10.0  # of a request, for its prompt; then 503, and the load goes on
    warm_tasks: Annotated[int, Field(ge=0)] = 1000  # brought near at start, the last run's most popular first
    popular_file: str | None = None  # None: popular.json in the store's folder or its cache, if that outlives us
    save_every_s: Seconds = 60.0


class Quotas(BaseModel):
    """How much may be kept. Over a quota a publish is refused; deleting makes room."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tenant_bytes: Count | None = None  # of all artifacts of a tenant, deleted ones until they are collected
    max_versions_per_task: Count = 1000


class Cleaning(BaseModel):
    """What a replica deletes from the store by itself, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every_s: Seconds = 3600.0
    grace_s: Annotated[float, Field(ge=60)] = 86_400.0  # bytes that no version names stay so long
    max_unused_s: Seconds | None = None  # versions that no alias has named for so long are deleted; None: none is


class Settings(BaseSettings):
    """What `softmux serve` runs with. Arguments win over the environment."""

    model_config = SettingsConfigDict(
        env_prefix="SOFTMUX_", env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    backbone: Annotated[str, Field(min_length=1)]  # a directory
    store: str = "memory://"  # memory:// | file:///path | redis://host:port/db
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    # Without keys everybody is admin, so binding beyond loopback has to be asked for by name.
    allow_anonymous: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: Count | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # After SIGTERM, to go on serving with a red /readyz: behind a proxy as long as it may take to look.
    shutdown_delay_s: Annotated[float, Field(ge=0)] = 0.0
    shutdown_timeout_s: Count = 30  # then, for what is inside; then it gets an error
    sticky_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "X-Softmux-Sticky"
    num_task_series: Annotated[int, Field(ge=0)] = 50
    limits: Limits = Limits()
    engine: EngineLimits = EngineLimits()
    residency: Residency = Residency()
    quotas: Quotas = Quotas()
    cleaning: Cleaning = Cleaning()

    @model_validator(mode="after")
    def _anonymous_stays_on_loopback(self) -> Self:
        if not self.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reachable from other machines and no keys are configured, so every caller "
                "would be admin of every tenant: use 127.0.0.1, or say --allow-anonymous if the network is trusted"
            )
        return self


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
