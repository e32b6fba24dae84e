"""Tests that need a GPU. They import nothing of HTTP or of stores, so that a machine that only computes runs them."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run `@pytest.mark.anyio` tests on asyncio."""
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them, saying why, where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU: torch.cuda.is_available() is False"))
