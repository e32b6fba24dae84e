"""A canary over HTTP, on disk and in Redis: it is watched by every replica, and taken back by the one that sees it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engine_cases import backbone_directory
from fakes import byte_tokenizer, classifier, fake_spec
from redis_fixtures import in_namespace
from redis_servers import RedisServer
from wire_server import LivingEngine, serving

from prompt_store.artifact import Artifact
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, Manifest, Method
from prompt_store.open import open_store
from server.api.services import Parts
from server.api.uploads import ARTIFACT_TYPE
from server.app import create_app
from server.engine.errors import NonFiniteError
from server.parts import put_together
from server.settings import Settings
from server.telemetry.metrics import Metrics, TasksMetrics

TASK = "/v1/tasks/sentiment"
LIVE = f"{TASK}/aliases/live"
RULE = {"max_nonfinite_rate": 0.2, "max_error_rate": 0.5, "min_requests": 2, "window_s": 600}


class OverflowingEngine(LivingEngine):
    """Rows of a classifier whose third label is called `overflows` are not finite."""

    def submit(self, request):
        row = super().submit(request)
        if "overflows" in (row.load.artifact.manifest.labels or ()):
            row.fail(NonFiniteError("the row's logits are not finite"))
        return row


@asynccontextmanager
async def open_parts(settings: Settings, metrics: Metrics) -> AsyncIterator[Parts]:
    store = await asyncio.to_thread(open_store, settings.store)
    engine = OverflowingEngine(fake_spec(), byte_tokenizer())
    try:
        async with put_together(settings, store, engine, TasksMetrics(metrics)) as parts:
            yield parts
    finally:
        await store.close()


@contextlib.contextmanager
def replica(store: str) -> Iterator[Caller]:
    settings = Settings(backbone="fake", port=0, store=store, sticky_header="X-Session")
    with serving(create_app(settings, open_parts=open_parts), settings) as port, caller(port) as client:
        yield client


@dataclass
class Caller:
    """A client of one replica, in the words of these tests."""

    http: httpx.Client

    def publish(self, artifact: Artifact, alias: str = "", task: str = TASK) -> str:
        answer = self.http.post(
            f"{task}/versions",
            params={"alias": alias},
            content=artifact.to_bytes(),
            headers={"Content-Type": ARTIFACT_TYPE},
        )
        assert answer.status_code == 201, answer.text
        version: str = answer.json()["version"]
        return version

    def move(self, *targets: tuple[str, int], **terms: Any) -> httpx.Response:
        body = {"targets": [{"version": version, "weight": weight} for version, weight in targets]}
        return self.http.put(LIVE, json=body | terms)

    def ask(self, key: str, text: str = "x") -> httpx.Response:
        return self.http.post(f"{TASK}/infer", json={"inputs": text}, headers={"X-Session": key})

    def history(self) -> list[dict[str, Any]]:
        states: list[dict[str, Any]] = self.http.get(LIVE).json()["states"]
        return states

    def metric(self, name: str) -> float:
        lines = (line.rpartition(" ") for line in self.http.get("/metrics").text.splitlines())
        return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)


@contextlib.contextmanager
def caller(port: int) -> Iterator[Caller]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
        yield Caller(http)


def until(claim: Callable[[], bool]) -> None:
    """Return once `claim` holds; the test's own time limit ends one that never does."""
    while not claim():
        pass


@pytest.fixture(params=["disk", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return (tmp_path / "store").as_uri()
    valkey: RedisServer = request.getfixturevalue("valkey")
    return in_namespace(valkey.url)


def test_a_canary_that_is_not_finite_is_taken_back_everywhere(store: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with replica(store) as first, replica(store) as second:
        good = first.publish(classifier(), "live")
        bad = first.publish(classifier(labels=("bad", "good", "overflows")))
        moved = first.move((good, 60), (bad, 40), rollback_rule=RULE, reason="a try").json()
        assert moved["rollback_rule"] == RULE | {"watched": [bad], "to_serial": 1}
        until(lambda: second.http.get(TASK).json()["aliases"][0]["serving_serial"] in (2, None))

        of_canary = [key for key in map(str, range(40)) if first.ask(key).status_code == 500]  # the rule acts meanwhile
        assert len(of_canary) >= 2
        until(lambda: len(first.history()) == 3)
        last = first.history()[-1]
        assert (last["version"], last["actor"], last["rollback_rule"]) == (good, "rollback-rule", None)
        assert bad in last["reason"]
        until(lambda: all(second.ask(key).status_code == 200 for key in of_canary))
        assert all(each.ask(key).json()["version"] == good for each in (first, second) for key in of_canary)
        assert len(second.history()) == 3
        assert first.metric("softmux_alias_rollbacks_total") + second.metric("softmux_alias_rollbacks_total") == 1
    assert "the alias was taken back" in [record.message for record in caplog.records]


def test_a_canary_that_answers_stays(store: str) -> None:
    with replica(store) as first:
        versions = [first.publish(classifier(), "live"), first.publish(classifier(labels=("no", "yes")))]
        first.move((versions[0], 50), (versions[1], 50), rollback_rule=RULE)
        answers = {key: {first.ask(key).json()["version"] for _ in range(3)} for key in map(str, range(30))}
        assert all(len(found) == 1 for found in answers.values())  # the header of the settings keeps callers apart
        assert set.union(*answers.values()) == set(versions)
        first.move((versions[1], 1))
        assert [state["rollback_rule"] is None for state in first.history()] == [True, False, True]


@pytest.mark.parametrize(
    "rule", [{}, {"max_error_rate": 0}, {"max_error_rate": 1.5}, {"max_error_rate": 0.1, "window": 3}]
)
def test_malformed_rules_are_400(tmp_path: Path, rule: dict[str, float]) -> None:
    with replica("memory://") as first:
        good = first.publish(classifier(), "live")
        assert first.move((good, 1), rollback_rule=rule).status_code == 400


def test_a_rule_with_nothing_to_watch_is_409() -> None:
    with replica("memory://") as first:
        good = first.publish(classifier(), "live")
        answer = first.move((good, 1), rollback_rule=RULE)
        assert (answer.status_code, answer.json()["error"]["type"]) == (409, "conflict")
        alias = first.http.put(f"{TASK}/aliases/canary", json={"version": good, "rollback_rule": RULE})
        assert alias.status_code == 409


def test_a_head_that_overflows_for_some_texts_is_taken_back(tmp_path: Path) -> None:
    """On a real backbone: the trial passes, and callers meet infinite logits."""
    backbone = backbone_directory("llama-gqa", tmp_path / "backbone")
    settings = Settings(
        backbone=str(backbone), store=(tmp_path / "store").as_uri(), port=0, dtype="float32", device="cpu"
    )
    with serving(create_app(settings), settings) as port, caller(port) as first:
        spec = first.http.get("/v1/backbone").json()["spec"]
        embeds = torch.randn(3, spec["embedding_size"], generator=torch.Generator().manual_seed(0)) * 0.1
        texts = {"trial": "A short text.", "caller": "the great movie"}
        hidden = _hidden(first, spec, embeds, texts)
        good = first.publish(_classifier(spec, embeds, torch.ones_like(hidden["trial"])), "live")
        bad = first.publish(_classifier(spec, embeds, _overflowing(hidden["caller"], hidden["trial"])))
        first.move((good, 50), (bad, 50), rollback_rule=RULE)
        assert first.ask("a", texts["trial"]).status_code == 200
        statuses = [first.ask(str(number), texts["caller"]).status_code for number in range(30)]
        assert set(statuses) == {200, 500}
        until(lambda: len(first.history()) == 3)
        assert first.history()[-1]["actor"] == "rollback-rule"
        assert {first.ask(str(number), texts["caller"]).status_code for number in range(30)} == {200}


def _manifest(spec: dict[str, Any], **fields: Any) -> Manifest:
    fingerprint = Fingerprint(arch=spec["arch_fingerprint"], weights=spec["weights_fingerprint"])
    return Manifest(
        method=Method.PROMPT_TUNING,
        num_virtual_tokens=3,
        template="<soft:3>{text}",
        fingerprint=fingerprint,
        **fields,
    )


def _hidden(
    first: Caller, spec: dict[str, Any], embeds: torch.Tensor, texts: dict[str, str]
) -> dict[str, torch.Tensor]:
    """Return what the head will read of each text: the last hidden state, as an embedding task gives it."""
    manifest = _manifest(spec, kind=HeadKind.EMBEDDING, pool="last")
    first.publish(Artifact(manifest, {"embeds": embeds}), "live", "/v1/tasks/hidden")
    answer = first.http.post("/v1/tasks/hidden/infer", json={"inputs": list(texts.values())})
    assert answer.status_code == 200, answer.text
    found = [torch.tensor(output["embedding"]) for output in answer.json()["outputs"]]
    return dict(zip(texts, found, strict=True))


def _overflowing(seen: torch.Tensor, not_seen: torch.Tensor) -> torch.Tensor:
    """Return weights that read one place: of `seen` its product is past every float32, of `not_seen` it is not."""
    place = int((seen.abs() / (not_seen.abs() + 0.1)).argmax())
    assert seen[place].abs() > not_seen[place].abs()
    between = (seen[place] * not_seen[place]).abs().sqrt()
    weights = torch.zeros_like(seen)
    weights[place] = min(3.4e38 / float(between), 3.4e38)
    return weights


def _classifier(spec: dict[str, Any], embeds: torch.Tensor, weights: torch.Tensor) -> Artifact:
    manifest = _manifest(
        spec,
        kind=HeadKind.SEQUENCE_CLASSIFICATION,
        labels=("bad", "good"),
        problem_type="single_label",
        head=HeadModule(path="score", form="linear", reads="last"),
    )
    return Artifact(manifest, {"embeds": embeds, "head.score.weight": torch.stack([weights, -weights])})
