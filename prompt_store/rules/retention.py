"""Which versions nobody needs any more. Pure: it looks at one task as it is, and deletes nothing."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from prompt_store.refs import Alias, Version
from prompt_store.store import AliasState, TaskCopy


def unused(copy: TaskCopy, before: float) -> tuple[Version, ...]:
    """Return the versions that no alias has named since `before` (seconds since the epoch).

    The newest one stays, and what an alias names now or would name after a rollback, its rule's too; so does what is
    younger itself.
    """
    by_alias: dict[Alias, list[AliasState]] = defaultdict(list)
    for state in sorted(copy.states, key=lambda state: state.serial):
        by_alias[state.alias].append(state)
    needed = {version for states in by_alias.values() for state in states[-2:] for version in state.needed()}
    ended = {  # when an alias went on from a state, its versions were named for the last time
        (target.version, following.moved_at)
        for states in by_alias.values()
        for state, following in pairwise(states)
        for target in state.targets
    }
    recent = {version for version, at in ended if at > before}
    return tuple(
        record.version
        for record in copy.versions[:-1]
        if record.version not in needed | recent and record.created_at <= before
    )
