"""Our Triton kernel compiled for GPUs that are not there. Run by test_paged_kernels in a process of its own."""

from __future__ import annotations

import pytest
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from server.engine.kernels.paged_decode import _attend, _tile

POINTERS = {"table": "*i64", "lengths": "*i64", "sums": "*fp32"}
GIVEN = ("query", "key", "value", "output")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("width", "group", "page_size"), [(64, 4, 32), (24, 3, 16)])
def test_it_compiles_for(capability: int, dtype: str, width: int, group: int, page_size: int) -> None:
    """Down to machine code, with a window and soft caps."""
    constants = {"group": group, "page_size": page_size, "width": width, "has_softcap": True, "has_window": True}
    constants |= {"group_tile": _tile(group), "page_tile": _tile(page_size), "width_tile": _tile(width)}
    signature = {name: "constexpr" if name in constants else "i32" for name in _attend.arg_names}
    signature |= POINTERS | dict.fromkeys(GIVEN, f"*{dtype}") | {"scaling": "fp32", "softcap": "fp32"}
    source = ASTSource(fn=_attend, signature=signature, constexprs=constants)
    assert compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
