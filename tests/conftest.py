"""What every test may count on: asyncio under anyio, and torch on one thread so that figures are steady."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run `@pytest.mark.anyio` tests on asyncio, the only loop that softmux serves on."""
    return "asyncio"
