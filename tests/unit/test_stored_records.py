"""Stored rows that a later softmux wrote still read."""

from __future__ import annotations

import dataclasses
import json

from prompt_store.rules.records import load_version
from prompt_store.store import VersionRecord


def test_a_field_that_a_later_softmux_added_is_passed_over() -> None:
    known = {field.name: None for field in dataclasses.fields(VersionRecord)}
    row = json.dumps({**known, "checks": [], "added_later": True})
    assert load_version(row).checks == ()
