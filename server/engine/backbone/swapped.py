"""A model's own forward pass over a packed step, with our attention in the place of its own.

Models that are not behind transformers' attention interface neither call our function nor hand it the plan: what
stands in for their attention finds the plan of the running step here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from transformers import PreTrainedModel

from server.engine.plan import StepPlan

Module = Any  # one of the model's own: torch cannot say what stands in it


class Running:
    """The step that runs. The worker's thread alone runs steps, one at a time."""

    def __init__(self) -> None:
        self._plan: StepPlan | None = None

    @property
    def plan(self) -> StepPlan:
        """The running step's plan."""
        assert self._plan is not None, "the model's attention was called outside of a step"
        return self._plan

    def run(self, plan: StepPlan, forward: Callable[[], Any]) -> Any:
        """Return what `forward` returns, with `plan` at hand."""
        self._plan = plan
        try:
            return forward()
        finally:
            self._plan = None


class Swapped:
    """The body of one model: itself, after `swap` has changed its modules in place."""

    def __init__(self, base: PreTrainedModel, swap: Callable[[Module, Running], None]) -> None:
        self._base, self._running = base, Running()
        swap(base, self._running)

    def __call__(self, plan: StepPlan, **inputs: Any) -> Any:
        """Run over a plan; `inputs` are what the model itself takes."""
        return self._running.run(plan, lambda: self._base(**inputs))


def modules_named(base: Module, name: str) -> Iterable[Module]:
    """Return the modules whose class is called `name` or starts so: transformers has variants for its kernels."""
    return [module for module in base.modules() if type(module).__name__.startswith(name)]


def decoding(base: Module, name: str) -> Iterable[Module]:
    """Return the same, told to say that they are causal, which some of these models say nowhere."""
    for module in modules_named(base, name):
        module.is_causal = True
        yield module


def hand_over_plan(base: Module, running: Running) -> None:
    """Hand the plan to every attention of a StableLM or Nemotron: it calls ours, but its layers pass no plan on."""

    def with_plan(_: Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**given, "plan": running.plan}

    for module in [*modules_named(base, "StableLmAttention"), *modules_named(base, "NemotronAttention")]:
        module.register_forward_pre_hook(with_plan, with_kwargs=True)
