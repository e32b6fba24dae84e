"""What every test may count on: asyncio under anyio, and torch on one thread so that figures are steady."""

from __future__ import annotations

import pytest
import torch
from parity import parity_lines
from redis_fixtures import distribution_server, valkey, valkey_cluster

__all__ = ["distribution_server", "valkey", "valkey_cluster"]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run `@pytest.mark.anyio` tests on asyncio, the only loop that softmux serves on."""
    return "asyncio"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how near the logits came to their references."""
    for line in parity_lines():
        terminalreporter.write_line(line)
