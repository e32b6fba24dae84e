"""Every kernel over pages gives what plain products give; which one is taken is a pure choice."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from paged_cases import RULES, SCALING, assert_agrees, filled
from torch.nn.attention import varlen as torch_varlen
from varlen_reference import varlen_attn

from server.engine.kernels.merged import Partial, summing_kernel
from server.engine.kernels.over_pages import Abilities, Asked, choose, kernels_for
from server.engine.kernels.scores import LayerRules
from server.engine.kernels.varlen import call_over_pages, has_block_table, knows_groups, window_of


@pytest.mark.parametrize(
    ("cases", "interpreted"), [("interpreted_kernel.py", "1"), ("compiled_kernel.py", "0")], ids=["runs", "compiles"]
)
def test_our_kernel(cases: str, interpreted: str, tmp_path: Path) -> None:
    """In Triton's interpreter on CPU tensors, which it must know before it is imported; and compiled for GPUs."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: `pip install triton`; this needs no GPU")
    if torch.cuda.is_available():
        pytest.skip("a GPU runs the kernel itself: make test-gpu")
    tests = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-x", "--tb=short", str(tests / cases)]
    told = {"TRITON_INTERPRET": interpreted, "TRITON_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run(
        command, env=os.environ | told, cwd=tests.parent, capture_output=True, text=True, timeout=55, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:]


@pytest.mark.parametrize("name", ["plain", "window", "window of one"])
def test_how_torchs_kernel_is_called(name: str) -> None:
    """Against its documentation written out: the installed one runs on a GPU alone."""

    def attend(*given: Any) -> Partial:
        return call_over_pages(varlen_attn, *given)

    assert_agrees(attend, filled(4, 2, 8), 4, RULES[name])


def test_the_reference_takes_what_the_installed_one_takes() -> None:
    """A name that torch changes is noticed here, and not on a GPU."""
    ours, theirs = (set(inspect.signature(one).parameters) for one in (varlen_attn, torch_varlen.varlen_attn))
    missing = {"seqused_k", "block_table"} if not has_block_table(torch_varlen.varlen_attn) else set()
    assert ours - missing - {"enable_gqa"} <= theirs


def old_varlen(query: Any, key: Any, value: Any, *, return_aux: Any, scale: Any, window_size: Any) -> None:
    """As in torches that know neither pages nor groups."""


def test_what_a_torch_can_do_is_read_off_its_signature() -> None:
    assert (has_block_table(varlen_attn), knows_groups(varlen_attn)) == (True, True)
    assert (has_block_table(old_varlen), knows_groups(old_varlen)) == (False, False)
    assert kernels_for(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("window", "is_causal", "told"),
    [(None, True, (-1, 0)), (None, False, (-1, -1)), (8, True, (7, 0)), (8, False, (7, 7))],
)
def test_windows(window: int | None, is_causal: bool, told: tuple[int, int]) -> None:
    assert window_of(window, is_causal) == told


BF16, F32 = torch.bfloat16, torch.float32
ALL = Abilities(is_cuda=True, has_triton=True, has_block_table=True)


@pytest.mark.parametrize(
    ("has", "asked", "rules", "kernel"),
    [
        (ALL, Asked(BF16, 64, 256), RULES["plain"], "varlen"),
        (ALL, Asked(BF16, 64, 256), RULES["window"], "varlen"),
        (ALL, Asked(BF16, 64, 32), RULES["plain"], "triton"),  # its pages are larger
        (ALL, Asked(F32, 64, 256), RULES["plain"], "triton"),
        (ALL, Asked(BF16, 64, 256), RULES["softcap"], "triton"),
        (ALL, Asked(BF16, 512, 256), RULES["plain"], "gather"),
        (ALL, Asked(BF16, 64, 256), LayerRules(SCALING, sinks=torch.zeros(4)), "gather"),
        (ALL, Asked(BF16, 64, 256), LayerRules(SCALING, place_bias=lambda q, k: q - k), "gather"),
        (Abilities(True, True, False), Asked(BF16, 64, 256), RULES["plain"], "triton"),
        (Abilities(True, False, True), Asked(BF16, 64, 32), RULES["plain"], "gather"),
        (Abilities(False, True, True), Asked(BF16, 64, 256), RULES["plain"], "gather"),
    ],
)
def test_the_choice(has: Abilities, asked: Asked, rules: LayerRules, kernel: str) -> None:
    assert choose(has, asked, rules) == kernel


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "has_mask", "kernel"),
    [
        ("cpu", F32, 7, True, "cpu"),
        ("cuda", BF16, 64, False, "flash"),
        ("cuda", F32, 64, False, "efficient"),
        ("cuda", BF16, 512, False, "efficient"),
        ("cuda", BF16, 64, True, None),
        ("cuda", BF16, 20, False, None),
        ("mps", F32, 64, False, None),
    ],
)
def test_which_kernel_gives_sums(
    device: str, dtype: torch.dtype, head_dim: int, has_mask: bool, kernel: str | None
) -> None:
    assert summing_kernel(device, dtype, head_dim, has_mask) == kernel
