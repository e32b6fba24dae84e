"""Stored values as JSON text and back. A field that is added must have a default, so that old rows still read."""

from __future__ import annotations

import json
from dataclasses import asdict

from prompt_store.refs import Alias, Version
from prompt_store.store import AliasState, Target, VersionRecord


def dump_version(record: VersionRecord) -> str:
    """Write a version's record."""
    return json.dumps(asdict(record), ensure_ascii=True, separators=(",", ":"))


def load_version(text: str) -> VersionRecord:
    """Read what `dump_version` wrote."""
    fields = json.loads(text)
    return VersionRecord(**{**fields, "checks": tuple(fields["checks"])})


def dump_state(state: AliasState) -> str:
    """Write one state of an alias."""
    return json.dumps(asdict(state), ensure_ascii=True, separators=(",", ":"))


def load_state(text: str) -> AliasState:
    """Read what `dump_state` wrote."""
    fields = json.loads(text)
    targets = tuple(Target(Version(target["version"]), target["weight"]) for target in fields["targets"])
    return AliasState(Alias(fields["alias"]), targets, fields["serial"], fields["actor"], fields["moved_at"])
