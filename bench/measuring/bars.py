"""What each comparison has to reach: the ratio it must have, and the one it aims at. On a CPU of two cores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """Both are ratios: softmux through its peer, larger is better."""

    must: float
    aim: float


_BARS = {
    ("encoder", "bf16-32x16"): {
        "engine-bare": Bar(0.97, 1.0),
        "transformers-padded": Bar(1.3, 1.6),
        "peft-microbatch": Bar(3.2, 4.0),
        "peft-switch": Bar(5.0, 6.5),
    },
    ("encoder", "f32-32x16"): {
        "engine-bare": Bar(0.97, 1.0),
        "transformers-padded": Bar(1.2, 1.4),
        "peft-microbatch": Bar(2.3, 2.8),
        "peft-switch": Bar(3.3, 4.0),
    },
    ("encoder", "bf16-256-mixed"): {"engine-bare": Bar(0.9, 1.0)},
    ("decoder", "bf16-8x16"): {
        "engine-bare": Bar(0.97, 1.0),
        "transformers-static": Bar(1.5, 2.2),
        "peft-microbatch": Bar(6.0, 9.0),
        "peft-switch": Bar(20.0, 30.0),
        "transformers-continuous": Bar(5.0, 8.0),
    },
    ("decoder", "bf16-step-32"): {"floor": Bar(1 / 1.6, 1 / 1.2)},
    ("long-prefix", "bf16-4x1024"): {"short-prefix": Bar(1 / 1.5, 1.0)},
    ("long-prefix", "bf16-4x4096"): {"short-prefix": Bar(1 / 2.5, 1.0)},
    ("compiled", "bf16-1x16"): {"engine-bare": Bar(0.97, 1.0)},
    ("compiled", "bf16-1x100"): {"engine-bare": Bar(0.97, 1.0)},
    ("many-tasks", "zipf-1000"): {"ten-tasks": Bar(0.95, 1.0)},
    ("many-tasks", "zipf-100000"): {"ten-tasks": Bar(0.95, 1.0)},
    **{
        ("start-up", f"{kind}-{case}"): {"bound": Bar(1.0, 1.0)}
        for kind in ("encoder", "decoder")
        for case in ("ready", "memory-loaded", "memory-asked")
    },
    ("swap", "f32-p95"): {"no-swaps": Bar(1 / 1.1, 1.0)},
    ("http", "f32-lists-16"): {"engine-bare": Bar(0.9, 0.95)},
    ("http", "f32-single"): {"engine-bare": Bar(0.7, 0.85)},
    ("http", "f32-idle"): {"forward-and-4-ms": Bar(1.0, 1.0)},
}


def bar_of(bench: str, case: str, peer: str) -> Bar | None:
    """Return what the comparison has to reach, or None where it is only told."""
    return _BARS.get((bench, case), {}).get(peer)
