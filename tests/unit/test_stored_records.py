"""Stored rows that a later softmux wrote still read."""

from __future__ import annotations

import dataclasses
import json

from prompt_store.refs import LIVE, Version
from prompt_store.rules.records import dump_state, load_state, load_version
from prompt_store.store import AliasState, Guard, RollbackRule, Target, VersionRecord


def test_a_field_that_a_later_softmux_added_is_passed_over() -> None:
    known = {field.name: None for field in dataclasses.fields(VersionRecord)}
    row = json.dumps({**known, "checks": [], "added_later": True})
    assert load_version(row).checks == ()


def test_a_field_of_a_state_that_a_later_softmux_added_is_passed_over() -> None:
    old, new = (Version(f"sha256:{digit * 64}") for digit in "12")
    guard = Guard(RollbackRule(max_error_rate=0.1, window_s=30.0), 1, (Target(old),))
    state = AliasState(LIVE, (Target(old, 90), Target(new, 10)), 2, "ann", 5.0, "try it", guard)
    row = json.loads(dump_state(state))
    for part in (row, row["guard"], row["guard"]["rule"], *row["targets"], *row["guard"]["targets"]):
        part["added_later"] = {"p95_ms": 9}
    assert load_state(json.dumps(row)) == state
