"""Moves of an alias: which state follows, and when none may. Pure; every store asks here, so there is one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prompt_store.errors import AliasNotFoundError, ConflictError, SerialConflictError, VersionNotFoundError
from prompt_store.refs import Alias, Version
from prompt_store.store import NO_TERMS, AliasState, Guard, RollbackRule, Target, TaskRecord, Terms


@dataclass(frozen=True, slots=True)
class Move:
    """Somebody wants `alias` at `targets`. `if_serial` is the serial they saw; None means whatever it is."""

    alias: Alias
    targets: tuple[Target, ...]
    if_serial: int | None
    actor: str
    at: float  # seconds since the epoch
    terms: Terms = NO_TERMS


@dataclass(frozen=True, slots=True)
class Rollback:
    """Somebody wants `alias` as it was before its last move, or as of `to_serial`."""

    alias: Alias
    to_serial: int | None
    actor: str
    at: float  # seconds since the epoch


def moved(record: TaskRecord, move: Move) -> AliasState:
    """Return the state after `move`.

    Raises SerialConflictError, VersionNotFoundError, ConflictError (a target is quarantined, weights sum to 0, a rule
    has nothing to go back to).
    """
    serial = _serial(record, move.alias)
    if move.if_serial is not None and move.if_serial != serial:
        raise SerialConflictError(
            f"alias {move.alias!r} of {record.task} has serial {serial}, expected {move.if_serial}: "
            "somebody moved it first. Read it again, then decide"
        )
    _check_weights(move.targets)
    for target in move.targets:
        if find_version(record, target.version) is None:
            raise version_not_found(record, target.version)
    _check_servable(record, move.targets)
    guard = _guard(record, move, move.terms.rule) if move.terms.rule else None
    return AliasState(move.alias, move.targets, serial + 1, move.actor, move.at, move.terms.reason, guard)


def rolled_back(record: TaskRecord, history: Sequence[AliasState], rollback: Rollback) -> AliasState:
    """Return the state after `rollback`: a new move to a past state, weights and rule whole. `history` is oldest first.

    Raises AliasNotFoundError, ConflictError (no such state; or a version of it, or of what its rule would go back to,
    was deleted or quarantined).
    """
    if not history:
        raise alias_not_found(record, rollback.alias)
    past = _past_state(history, rollback.to_serial)
    _check_servable(record, past.targets)
    if past.guard is not None:
        _check_base(record, past, past.guard)
    serial = history[-1].serial + 1
    return AliasState(rollback.alias, past.targets, serial, rollback.actor, rollback.at, guard=past.guard)


def find_version(record: TaskRecord, version: Version) -> int | None:
    """Return where `version` stands among the task's versions, if it is one of them."""
    return next((index for index, found in enumerate(record.versions) if found.version == version), None)


def aliases_of(record: TaskRecord, version: Version) -> list[Alias]:
    """Return the aliases that send traffic to `version` now, or would be taken back to it by their rule, by name."""
    return sorted(alias for alias, state in record.aliases.items() if version in state.needed())


def version_not_found(record: TaskRecord, version: Version) -> VersionNotFoundError:
    """Build the error for a version that the task does not have."""
    return VersionNotFoundError(f"task {record.task} has no version {version}; publish it first")


def alias_not_found(record: TaskRecord, alias: Alias) -> AliasNotFoundError:
    """Build the error for an alias that the task does not have."""
    known = ", ".join(sorted(record.aliases)) or "none"
    return AliasNotFoundError(f"task {record.task} has no alias {alias!r}; its aliases: {known}")


def _guard(record: TaskRecord, move: Move, rule: RollbackRule) -> Guard:
    """Watch what is new since the alias was last moved without a rule: a canary keeps its base while it grows."""
    now = record.aliases.get(move.alias)
    if now is None:
        raise ConflictError(f"alias {move.alias!r} is new, so a rollback rule has nothing to go back to; leave it out")
    base = now.guard or Guard(rule, now.serial, now.targets)
    if {target.version for target in move.targets} <= {target.version for target in base.targets}:
        raise ConflictError(
            f"a rollback rule would watch nothing: alias {move.alias!r} had all of these versions at serial "
            f"{base.to_serial} already; leave it out"
        )
    return replace(base, rule=rule)


def _serial(record: TaskRecord, alias: Alias) -> int:
    state = record.aliases.get(alias)
    return 0 if state is None else state.serial


def _check_weights(targets: tuple[Target, ...]) -> None:
    weights = [target.weight for target in targets]
    if len({target.version for target in targets}) < len(targets):
        raise ConflictError("an alias cannot have the same version twice; add the weights up")
    if any(weight < 0 for weight in weights) or sum(weights) < 1:
        raise ConflictError(f"an alias needs weights of 0 or more with a sum above 0; found {weights}")


def _check_servable(record: TaskRecord, targets: tuple[Target, ...]) -> None:
    for target in targets:
        index = find_version(record, target.version)
        if index is None:
            raise ConflictError(f"version {target.version} of {record.task} was deleted; publish it again first")
        reason = record.versions[index].quarantined
        if reason is not None:
            raise ConflictError(f"version {target.version} of {record.task} is quarantined: {reason}. Choose another")


def _check_base(record: TaskRecord, past: AliasState, guard: Guard) -> None:
    """Refuse a rule that could not do what it is there for: the versions would go unguarded, and nobody would know."""
    try:
        _check_servable(record, guard.targets)
    except ConflictError as error:
        raise ConflictError(
            f"serial {past.serial} of alias {past.alias!r} has a rollback rule that would go back to serial "
            f"{guard.to_serial}, which it could not: {error}. Or move the alias to the versions of serial "
            f"{past.serial} yourself, without that rule"
        ) from error


def _past_state(history: Sequence[AliasState], to_serial: int | None) -> AliasState:
    latest = history[-1]
    if to_serial is None:
        if len(history) < 2:
            raise ConflictError(f"alias {latest.alias!r} has moved only once; there is nothing to roll back to")
        return history[-2]
    for state in history:
        if state.serial == to_serial:
            return state
    raise ConflictError(f"alias {latest.alias!r} has no serial {to_serial}; expected 1 to {latest.serial}")
