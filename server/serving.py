"""What this replica serves under each alias, apart from what the store says. Pure state: loads nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from prompt_store.refs import Alias, TaskName, TaskRef, Version
from prompt_store.store import AliasState, Target


@dataclass(frozen=True, slots=True)
class Serving:
    """What this replica serves under an alias. `reason` says why it is not yet the store's newest state."""

    state: AliasState
    reason: str | None = None


class ServingTable:
    """The alias states that this replica serves. An alias enters it with its first request or move here."""

    def __init__(self) -> None:
        self._served: dict[TaskName, dict[Alias, Serving]] = {}

    def of(self, task: TaskName) -> Mapping[Alias, Serving]:
        """Return a snapshot of what is served under the task's aliases."""
        return dict(self._served.get(task, {}))

    def get(self, task: TaskName, alias: Alias) -> AliasState | None:
        """Return the state that requests get now, None if nobody asked for this alias yet."""
        serving = self._served.get(task, {}).get(alias)
        return serving.state if serving else None

    def adopt(self, task: TaskName, state: AliasState) -> AliasState:
        """Serve `state` unless the alias already serves one; return what it serves."""
        return self._served.setdefault(task, {}).setdefault(state.alias, Serving(state)).state

    def switch(self, task: TaskName, state: AliasState) -> None:
        """Serve `state` from now on. Its targets should be resident: the next request gets one of them."""
        self._served.setdefault(task, {})[state.alias] = Serving(state)

    def lag(self, task: TaskName, alias: Alias, reason: str) -> bool:
        """Note why the alias goes on serving an older state than the store's; return whether that is news."""
        served = self._served.get(task, {})
        is_news = alias in served and served[alias].reason != reason
        if is_news:
            served[alias] = Serving(served[alias].state, reason)
        return is_news

    def lagging(self) -> frozenset[TaskName]:
        """Return the tasks with an alias that could not follow the store."""
        return frozenset(task for task, served in self._served.items() if any(s.reason for s in served.values()))

    def forget(self, task: TaskName, alias: Alias | None = None) -> None:
        """Serve nothing under the alias, or under any alias of the task."""
        if alias is None:
            self._served.pop(task, None)
        else:
            self._served.get(task, {}).pop(alias, None)


def pick(targets: tuple[Target, ...], point: float) -> Version:
    """Return the target at `point` in [0, 1) of the targets' weights laid end to end."""
    total = sum(target.weight for target in targets)
    left = point * total
    for target in targets:
        left -= target.weight
        if left < 0:
            return target.version
    # Only rounding, or weights that are all zero, come here.
    return targets[-1].version


def sticky_point(ref: TaskRef, key: str) -> float:
    """Return a point in [0, 1) that is the same for this key and alias on every replica and in every process."""
    digest = hashlib.sha256(f"{ref}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
