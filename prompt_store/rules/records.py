"""Stored values as JSON text and back.

A field that is added must have a default, so that old rows still read, and must be one that may be passed over: a
softmux that does not know it goes on serving what it knows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from prompt_store.refs import Alias, Version
from prompt_store.store import AliasState, Guard, RollbackRule, Target, VersionRecord

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def dump_version(record: VersionRecord) -> str:
    """Write a version's record."""
    return json.dumps(version_fields(record), ensure_ascii=True, separators=(",", ":"))


def version_fields(record: VersionRecord) -> dict[str, Any]:
    """Return a version's record as JSON has it; what it lacks is left out, so that an older softmux reads it too."""
    return _without(asdict(record), ("is_untried",))


def load_version(text: str) -> VersionRecord:
    """Read what `dump_version` wrote; a field that a later softmux added is passed over."""
    found = json.loads(text)
    return VersionRecord(**{**_known(VersionRecord, found), "checks": tuple(found["checks"])})


def dump_state(state: AliasState) -> str:
    """Write one state of an alias."""
    return json.dumps(state_fields(state), ensure_ascii=True, separators=(",", ":"))


def state_fields(state: AliasState) -> dict[str, Any]:
    """Return one state of an alias as JSON has it; what it lacks is left out."""
    return _without(asdict(state), ("reason", "guard"))


def load_state(text: str) -> AliasState:
    """Read what `dump_state` wrote; a field that a later softmux added, to its rule too, is passed over."""
    found = json.loads(text)
    return AliasState(
        alias=Alias(found["alias"]),
        targets=_targets(found["targets"]),
        serial=found["serial"],
        actor=found["actor"],
        moved_at=found["moved_at"],
        reason=found.get("reason", ""),
        guard=_guard(found["guard"]) if found.get("guard") else None,
    )


def _guard(found: dict[str, Any]) -> Guard:
    return Guard(RollbackRule(**_known(RollbackRule, found["rule"])), found["to_serial"], _targets(found["targets"]))


def _targets(found: list[dict[str, Any]]) -> tuple[Target, ...]:
    return tuple(Target(Version(target["version"]), target["weight"]) for target in found)


def _known(kind: type[DataclassInstance], found: dict[str, Any]) -> dict[str, Any]:
    return {field.name: found[field.name] for field in fields(kind) if field.name in found}


def _without(given: dict[str, Any], optional: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value or name not in optional}
