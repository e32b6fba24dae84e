"""Real texts for real prompts: those that `make demo-eval` fetched, else those beside the checkout. Fetches none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.demo import vader, wnut17


@dataclass(frozen=True)
class Texts:
    """Where texts may lie."""

    cache: Path  # of the demo
    shared: Path  # not part of the project

    def vader(self, task: vader.ClassTask) -> Sequence[str]:
        """Return the 500 held-out texts of a task; none where nobody fetched them."""
        release = self.cache / "downloads" / vader.RELEASE.file_name
        if release.is_file():
            return [row.text for row in vader.split(vader.read(release), task).held_out]
        prepared = self.shared / "data" / "vader" / f"{task}.test.jsonl"
        if prepared.is_file():
            return [json.loads(line)["text"] for line in prepared.read_text().splitlines()]
        return []

    def sentences(self) -> Sequence[str]:
        """Return WNUT17's held-out sentences; none where nobody fetched them."""
        for folder in (self.cache / "downloads", self.shared / "data" / "wnut17"):
            held_out = folder / "emerging.dev.conll"
            if held_out.is_file():
                return [wnut17.text_of(one) for one in wnut17.read(held_out.read_text(encoding="utf-8"))]
        return []
