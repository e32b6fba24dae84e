"""Two `softmux serve` in processes of their own, on one Redis store."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_stub import Softmux
from engine_cases import backbone_directory
from peft_cases import save_peft
from redis_fixtures import in_namespace
from redis_servers import RedisServer
from served_process import serving


@pytest.mark.slow
@pytest.mark.timeout(400)  # both import torch and transformers
def test_a_replica_serves_what_another_one_published(softmux: Softmux, tmp_path: Path, valkey: RedisServer) -> None:
    backbone_directory("gpt2", tmp_path / "backbone")
    save_peft("gpt2", "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "story", n=5)
    store = in_namespace(valkey.url)
    with serving(tmp_path / "backbone", store) as first, serving(tmp_path / "backbone", store) as second:
        assert softmux("push", str(tmp_path / "story"), "--task", "story", "--url", first).code == 0
        answers = [softmux("infer", "story", "hello", "--url", url, "--json").json for url in (first, second)]

    assert answers[0]["version"] == answers[1]["version"]
    assert answers[0]["outputs"] == answers[1]["outputs"]
