"""Real prompts, published and asked as a user would, on 500 held-out rows each: as accurate as under PEFT."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from test_real_prompts import SHARED, demo_backbone
from wire_server import serving

from server.app import create_app
from server.demo.client import DemoClient
from server.settings import Settings

MANIFESTS = {
    "sentiment": {"max_length": 64, "labels": ["negative", "positive"]},
    "source": {"max_length": 64, "labels": ["movie", "news", "product", "tweet"]},
}
NUM_RIGHT_UNDER_PEFT = {"sentiment": 380, "source": 430}  # of 500: 76.0% and 86.0%
NUM_INPUTS = 125  # a request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real prompts are not beside the checkout, at {SHARED}"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoClient]:
    settings = Settings(
        backbone=str(demo_backbone("all-MiniLM-L6-v2")),
        store=(tmp_path_factory.mktemp("accuracy") / "store").as_uri(),
        port=0,
        dtype="float32",
    )
    with serving(create_app(settings), settings) as port, DemoClient(f"http://127.0.0.1:{port}") as opened:
        yield opened


@pytest.mark.parametrize("task", MANIFESTS)
def test_as_many_rows_are_right_as_under_peft(task: str, client: DemoClient) -> None:
    prompt = SHARED / "prompts" / f"minilm-{task}-prefix"
    files = {
        "weights": (prompt / "adapter_model.safetensors").read_bytes(),
        "config": (prompt / "adapter_config.json").read_bytes(),
        "manifest": json.dumps(MANIFESTS[task]).encode(),
    }
    client.push(task, files)
    lines = (SHARED / "data" / "vader" / f"{task}.test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    outputs = [
        output
        for first in range(0, len(rows), NUM_INPUTS)
        for output in client.infer(task, [row["text"] for row in rows[first : first + NUM_INPUTS]])
    ]
    num_right = sum(output["label"] == row["label"] for output, row in zip(outputs, rows, strict=True))
    print(f"{task}: {num_right} of {len(rows)} right through REST, {NUM_RIGHT_UNDER_PEFT[task]} under PEFT")
    assert len(rows) == 500
    assert abs(num_right - NUM_RIGHT_UNDER_PEFT[task]) <= 1
