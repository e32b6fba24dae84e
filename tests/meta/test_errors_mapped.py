"""Every error that softmux can raise has its status, chosen in one place."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator

import pytest

import prompt_store
import server
from prompt_store.errors import ArtifactError, SoftmuxError
from server.api.errors import STATUS, problem_of

# Drawn for the tree's sake; only their subclasses are raised.
BRANCHES = {"SoftmuxError", "StoreError", "EngineError", "RefusedError"}
# Raised by the command line or the demo, which talk to a server and are none.
NOT_SERVED = ("server.cli", "server.demo")
NEEDS = {"server.engine.kernels.paged_decode": "triton"}  # which comes with torch for CUDA


def every_error() -> Iterator[type[SoftmuxError]]:
    for package in (prompt_store, server):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            is_there = module.name not in NEEDS or importlib.util.find_spec(NEEDS[module.name])
            if is_there and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    todo: list[type[SoftmuxError]] = [SoftmuxError]
    while todo:
        error = todo.pop()
        todo += error.__subclasses__()
        if error.__module__.startswith(("prompt_store", "server")) and not error.__module__.startswith(NOT_SERVED):
            yield error


def test_every_error_has_a_status() -> None:
    forgotten = {
        f"{error.__module__}.{error.__name__}"
        for error in every_error()
        if error.__name__ not in BRANCHES and not any(ancestor in STATUS for ancestor in error.__mro__)
    }
    assert not forgotten, "add these to STATUS in server/api/errors.py"


def test_branches_have_no_status_that_would_hide_a_forgotten_leaf() -> None:
    assert not {error.__name__ for error in STATUS} & BRANCHES


@pytest.mark.parametrize("error", sorted(STATUS, key=lambda error: error.__name__))
def test_statuses_are_the_documented_ones(error: type[SoftmuxError]) -> None:
    assert STATUS[error][0] in {400, 401, 403, 404, 408, 409, 412, 413, 415, 422, 429, 499, 500, 503}


@pytest.mark.parametrize(
    "error", [error for error, (status, _) in STATUS.items() if status in (429, 503)], ids=lambda error: error.__name__
)
def test_overload_says_when_to_retry(error: type[SoftmuxError]) -> None:
    assert problem_of(error("full")).retry_after_s


def test_an_artifact_error_tells_every_reason() -> None:
    assert problem_of(ArtifactError("too wide", "no head")).reasons == ("too wide", "no head")
