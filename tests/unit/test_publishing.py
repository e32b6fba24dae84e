from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import safetensors.torch
import torch
from fakes import FakeEngine, classifier, fake_engine, writer

from prompt_store.artifact import Artifact, version_of
from prompt_store.errors import (
    ArtifactError,
    CheckpointError,
    ConflictError,
    QuotaError,
    StoreFullError,
    TrialError,
    UnfitError,
    VersionNotFoundError,
)
from prompt_store.manifest import GoldenExample
from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, Alias, TaskName, TaskRef, Version
from prompt_store.store import Target, TaskRecord
from server.inference.answer import InferCall
from server.inference.service import InferenceService
from server.publishing import Published, Publisher, PublishSettings, Upload
from server.tasks import Tasks

pytestmark = pytest.mark.anyio

TASK = TaskName("acme", "mood")


class FullStore(MemoryStore):
    is_full = False

    async def put(self, tenant: str, artifact: bytes) -> Version:
        if self.is_full:
            raise StoreFullError("no room")
        return await super().put(tenant, artifact)


@dataclass
class House:
    publisher: Publisher
    service: InferenceService
    tasks: Tasks
    engine: FakeEngine
    store: FullStore

    async def publish(self, artifact: Artifact, task: TaskName = TASK, **options: Any) -> Published:
        return await self.publisher.publish(task, Upload(artifact=artifact.to_bytes(), **options), "me")

    async def served(self) -> Version:
        return (await self.service.infer(InferCall(TaskRef(TASK), "x"))).version


@pytest.fixture
async def house() -> AsyncIterator[House]:
    store, engine = FullStore(), fake_engine()
    tasks = Tasks(store, engine)
    service = InferenceService(engine, tasks)
    publisher = Publisher(store, engine, tasks, service, PublishSettings(max_versions_per_task=3))
    yield House(publisher, service, tasks, engine, store)
    await tasks.close()
    assert engine.num_leases == 0


def peft_upload(seed: int = 0, **options: Any) -> Upload:
    """A PEFT prompt-tuning directory for a causal language model."""
    generator = torch.Generator().manual_seed(seed)
    weights = safetensors.torch.save({"prompt_embeddings": torch.randn(3, 8, generator=generator) * 0.1})
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "token_dim": 8}
    return Upload(weights=weights, config=json.dumps(config).encode(), **options)


async def test_publishes_an_artifact_and_serves_it(house: House):
    artifact = classifier(1)
    published = await house.publish(artifact)
    assert published.created
    assert published.record.version == version_of(artifact.to_bytes())
    assert (published.record.actor, published.record.format) == ("me", "artifact")
    assert published.alias is not None
    assert (published.alias.alias, published.alias.serial) == (LIVE, 1)
    assert await house.served() == published.record.version
    assert [request.version for request, _ in house.engine.trials] == [published.record.version]


def with_quota(house: House, max_tenant_bytes: int) -> Publisher:
    settings = PublishSettings(max_tenant_bytes=max_tenant_bytes)
    return Publisher(house.store, house.engine, house.tasks, house.service, settings)


async def test_a_tenant_keeps_no_more_bytes_than_it_may(house: House):
    raws = [classifier(seed).to_bytes() for seed in (1, 2, 3)]
    publisher = with_quota(house, len(raws[0]) + len(raws[1]))
    for index, raw in enumerate(raws[:2]):
        await publisher.publish(TaskName("acme", f"t{index}"), Upload(artifact=raw), "me")
    with pytest.raises(QuotaError, match=f"keeps {len(raws[0]) + len(raws[1])} and may keep"):
        await publisher.publish(TASK, Upload(artifact=raws[2]), "me")
    assert await house.store.usage("acme") == len(raws[0]) + len(raws[1])
    again = await publisher.publish(TASK, Upload(artifact=raws[0]), "me")  # its bytes are there
    assert again.created
    await publisher.publish(TaskName("rival", "t"), Upload(artifact=raws[2]), "me")
    await house.tasks.delete_task(TaskName("acme", "t1"), force=True)
    await house.store.collect(0)
    await publisher.publish(TASK, Upload(artifact=raws[2]), "me")


async def test_publishes_at_once_share_the_quota(house: House):
    raws = [classifier(seed).to_bytes() for seed in range(4)]
    publisher = with_quota(house, 2 * max(map(len, raws)))
    publishes = (
        publisher.publish(TaskName("acme", f"t{index}"), Upload(artifact=raw), "me") for index, raw in enumerate(raws)
    )
    outcomes = await asyncio.gather(*publishes, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Published"] * 2 + ["QuotaError"] * 2


async def test_a_version_that_was_deleted_meanwhile_is_published_anew(house: House):
    first = await house.publish(classifier(1), alias=None)

    class Late(Publisher):
        async def _task_or_none(self, task: TaskName) -> TaskRecord | None:
            record = await super()._task_or_none(task)
            if record and record.versions:
                await house.store.delete_version(task, first.record.version)
            return record

    publisher = Late(house.store, house.engine, house.tasks, house.service)
    again = await publisher.publish(TASK, Upload(artifact=classifier(1).to_bytes()), "me")
    assert again.record.version == first.record.version
    assert await house.served() == first.record.version


async def test_publishes_a_peft_directory(house: House):
    published = await house.publisher.publish(TASK, peft_upload(), "me")
    assert (published.record.format, published.record.method) == ("peft", "prompt-tuning")
    assert published.record.kind == "generation"
    assert any("unverified" in check for check in published.record.checks)
    assert await house.served() == published.record.version


async def test_the_same_upload_again_is_the_same_version(house: House):
    first = await house.publish(classifier(1))
    again = await house.publish(classifier(1))
    assert (first.created, again.created) == (True, False)
    assert again.record == first.record
    assert again.alias == first.alias
    assert len(house.engine.trials) == 1


async def test_the_spelling_of_a_manifest_does_not_matter(house: House):
    first = await house.publisher.publish(TASK, peft_upload(manifest=b'{"max_length": 9, "description": "d"}'), "me")
    again = await house.publisher.publish(TASK, peft_upload(manifest=b'{"description":"d","max_length":9}'), "you")
    other = await house.publisher.publish(TASK, peft_upload(manifest=b'{"max_length": 8}'), "me")
    assert not again.created
    assert first.record.description == "d"
    assert other.created


async def test_an_upload_that_gives_a_known_version_another_way_keeps_its_record(house: House):
    first = await house.publish(classifier(1))
    with_words = Upload(artifact=classifier(1).to_bytes(), manifest=b'{"description": "the same"}')
    again = await house.publisher.publish(TASK, with_words, "you")
    assert not again.created
    assert again.record == first.record


async def test_the_same_upload_moves_an_alias_that_points_elsewhere(house: House):
    first = await house.publish(classifier(1))
    await house.publish(classifier(2))
    back = await house.publish(classifier(1))
    assert back.alias is not None
    assert (back.created, back.alias.serial) == (False, 3)
    assert await house.served() == first.record.version


async def test_an_upload_without_an_alias_moves_none(house: House):
    first = await house.publish(classifier(1))
    second = await house.publish(classifier(2), alias=None)
    assert second.alias is None
    assert await house.served() == first.record.version
    third = await house.publish(classifier(3), alias=Alias("next"))
    assert third.alias is not None
    assert third.alias.alias == "next"
    assert await house.served() == first.record.version


async def test_publishing_to_a_weighted_alias_replaces_its_weights(house: House):
    first, second = await house.publish(classifier(1)), await house.publish(classifier(2))
    both = (Target(first.record.version, 1), Target(second.record.version, 1))
    await house.tasks.move(TASK, LIVE, both, None, "me")
    again = await house.publish(classifier(2))
    assert again.alias is not None
    assert [target.version for target in again.alias.targets] == [second.record.version]


async def test_a_plan_stores_nothing_and_leaves_nothing_on_the_device(house: House):
    artifact = classifier(1)
    report = await house.publisher.plan("acme", Upload(artifact=artifact.to_bytes()))
    assert report.version == version_of(artifact.to_bytes())
    assert (report.format, report.kind, report.num_virtual_tokens) == ("artifact", "sequence-classification", 3)
    assert not house.engine.resident
    with pytest.raises(VersionNotFoundError):
        await house.store.get("acme", report.version)


@pytest.mark.parametrize(
    ("upload", "error", "says"),
    [
        (Upload(), CheckpointError, "no weights"),
        (Upload(weights=b"x", artifact=b"y"), CheckpointError, "both"),
        (Upload(weights=b"\x00" * 100), ArtifactError, ""),
        (Upload(artifact=b"nothing of ours"), ArtifactError, ""),
        (Upload(artifact=classifier(1).to_bytes(), manifest=b'{"labls": 1}'), ArtifactError, "manifest.labls"),
        (Upload(artifact=writer(template="<soft:2>{text}").to_bytes()), ArtifactError, "soft"),
    ],
)
async def test_an_unfit_upload_is_refused_and_leaves_nothing(
    house: House, upload: Upload, error: type[Exception], says: str
):
    with pytest.raises(error, match=says or None):
        await house.publisher.publish(TASK, upload, "me")
    assert (await house.store.list("acme")).tasks == ()
    assert not house.engine.resident


async def test_an_artifact_for_other_weights_needs_force(house: House):
    other = classifier(1)
    fingerprint = other.manifest.fingerprint.model_copy(update={"weights": "c" * 64})
    other = replace(other, manifest=other.manifest.model_copy(update={"fingerprint": fingerprint}))
    with pytest.raises(UnfitError, match="force"):
        await house.publish(other)
    assert (await house.publish(other, force=True)).created


async def test_a_failed_trial_moves_nothing(house: House):
    first = await house.publish(classifier(1))
    house.engine.trial_errors = [TrialError("the backbone ignores it")]
    with pytest.raises(TrialError):
        await house.publish(classifier(2))
    assert len((await house.store.resolve(TASK)).versions) == 1
    assert await house.served() == first.record.version


def with_examples(artifact: Artifact, outputs: Any, inputs: Any = "x", **options: Any) -> Artifact:
    examples = (GoldenExample(inputs=inputs, outputs=outputs, **options),)
    return replace(artifact, manifest=artifact.manifest.model_copy(update={"examples": examples}))


async def test_a_kept_promise_is_told(house: House):
    promise = with_examples(writer(says="ab"), [{"finish_reason": "length"}, {"num_tokens": 121}], ["x", "y"])
    published = await house.publish(promise)
    assert "golden examples: 1 came out as promised" in published.record.checks
    assert await house.publisher.verify(TASK, published.record.version)


async def test_a_broken_promise_is_refused_with_every_difference(house: House):
    promise = with_examples(writer(says="ab"), {"text": "xyz", "finish_reason": "stop"})
    with pytest.raises(TrialError) as refused:
        await house.publish(promise)
    assert {reason.split(" is ")[0] for reason in refused.value.reasons} == {
        "examples[0].outputs[0].text",
        "examples[0].outputs[0].finish_reason",
    }
    assert not house.engine.resident
    assert (await house.store.list("acme")).tasks == ()


async def test_a_golden_example_that_cannot_be_answered_is_refused(house: House):
    with pytest.raises(TrialError, match=r"could not be answered|cannot be filled"):
        await house.publish(with_examples(writer(), {"text": ""}, {"unknown": "x"}))


async def test_a_new_label_set_reuses_the_vectors_of_its_base(house: House):
    base = await house.publish(classifier(1))
    upload = Upload(manifest=b'{"labels": ["no", "yes"]}', base_version=base.record.version)
    renamed = await house.publisher.publish(TASK, upload, "me")
    raw = await house.store.get("acme", renamed.record.version)
    artifact = Artifact.from_bytes(raw)
    assert artifact.manifest.labels == ("no", "yes")
    assert artifact.prompt_digest() == classifier(1).prompt_digest()


async def test_a_base_of_another_tenant_is_not_found(house: House):
    base = await house.publish(classifier(1), TaskName("other", "mood"))
    with pytest.raises(VersionNotFoundError):
        await house.publisher.publish(TASK, Upload(base_version=base.record.version), "me")


async def test_a_task_holds_only_so_many_versions(house: House):
    for seed in range(3):
        await house.publish(classifier(seed))
    with pytest.raises(ConflictError, match="3 versions"):
        await house.publish(classifier(9))
    assert not (await house.publish(classifier(0))).created


async def test_a_full_store_moves_nothing_and_frees_the_device(house: House):
    house.store.is_full = True
    with pytest.raises(StoreFullError):
        await house.publish(classifier(1))
    assert not house.engine.resident


async def test_a_publisher_that_leaves_moves_nothing(house: House):
    first = await house.publish(classifier(1))
    house.engine.loads_may_run.clear()
    house.engine.loading.clear()
    running = asyncio.create_task(house.publish(classifier(2)))
    await house.engine.loading.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    house.engine.loads_may_run.set()
    assert await house.served() == first.record.version
    assert len((await house.store.resolve(TASK)).versions) == 1


async def test_a_quarantined_version_is_not_served_again_by_publishing_it(house: House):
    first = await house.publish(classifier(1))
    await house.store.quarantine(TASK, first.record.version, "non-finite")
    with pytest.raises(ConflictError, match="quarantined"):
        await house.publish(classifier(1))


async def test_publishing_while_requests_run_fails_none_of_them(house: House):
    await house.publish(writer(0))
    done = False

    async def ask() -> int:
        count = 0
        while not done:
            await house.served()
            count += 1
        return count

    async def publish() -> None:
        nonlocal done
        for seed in (1, 2):
            await house.publish(writer(seed))
        done = True

    counts = await asyncio.gather(publish(), ask(), ask())
    assert all(count is None or count > 0 for count in counts)
