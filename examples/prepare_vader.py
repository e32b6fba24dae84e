"""Write the demo's data as JSON lines: {sentiment,source}.{train,test}.jsonl, each line {"text", "label"}.

    python -m examples.prepare_vader data/vader

The rows come from the source release of vaderSentiment 0.5 (MIT), fetched with pip; the split is the same everywhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from server.demo.vader import NUM_HELD_OUT, LabelledText, load, split


def main(out: Path, cache: Path) -> None:
    """Fetch the release, split it, and write four files."""
    with Progress() as progress:
        rows = load(cache, progress)
    out.mkdir(parents=True, exist_ok=True)
    for task in NUM_HELD_OUT:
        parts = split(rows, task)
        _write(out / f"{task}.train.jsonl", parts.train)
        _write(out / f"{task}.test.jsonl", parts.held_out)


def _write(path: Path, rows: Sequence[LabelledText]) -> None:
    lines = (json.dumps({"text": row.text, "label": row.label}, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/softmux").expanduser())
    said = parser.parse_args()
    main(said.out, said.cache)
