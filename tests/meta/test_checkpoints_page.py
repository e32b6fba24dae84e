"""docs/checkpoints.md says only what is so: every family and field there is, and proofs that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prompt_store.formats.recognise import FAMILIES
from prompt_store.manifest import PublisherManifest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
TRAPS = PAGE.partition("## Where the training code errs")[2].partition("\n## ")[0].split("\n### ")[1:]


def rows_of(heading: str) -> list[str]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def test_every_family_has_a_line() -> None:
    named = [re.findall(r"`([^`]+)`", line)[0] for line in rows_of("Every family")]
    assert sorted(named) == sorted(family.name for family in FAMILIES)


def test_what_no_file_says_are_fields_and_of_every_checkpoint() -> None:
    named = {word for line in rows_of("What no file says") for word in re.findall(r"`([^`]+)`", line.split("|")[1])}
    assert named <= set(PublisherManifest.model_fields)
    of_checkpoints = (
        "position_offset",
        "peft_",
        "embeds_",
        "qa_",
        "prompt_task",
        "backbone_",
        "token_types",
        "decoder_",
    )
    assert {name for name in PublisherManifest.model_fields if any(one in name for one in of_checkpoints)} <= named


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.splitlines()[0])
def test_every_entry_says_what_is_answered_and_where_that_is_proved(trap: str) -> None:
    assert "**softmux**" in trap
    cited = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", trap)
    assert cited
    for file, name in cited:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_what_can_be_asked_for_is_a_field() -> None:
    assert set(re.findall(r"`([a-z_]+)=\S+`", PAGE)) <= {
        *PublisherManifest.model_fields,
        "modules_to_save",  # of PEFT
    }
