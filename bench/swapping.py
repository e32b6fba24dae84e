"""Swap a task's live version, by moving its alias to a version that is there or to one that is published for it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from bench.live_versions import LiveVersions
from bench.swap_load import LoadedTask

Parts = Mapping[str, bytes]  # of a publish

_NUM_KEPT = 4  # versions


@dataclass
class Swapper:
    """Swaps one task. Every `swaps_a_publish`-th swap publishes first (0: none does), and deletes an old version."""

    client: httpx.AsyncClient
    task: LoadedTask
    files: Parts
    swaps_a_publish: int = 0
    num_swaps: int = 0
    num_publishes: int = 0
    publish_s: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)  # that are there, oldest first

    def __post_init__(self) -> None:
        self.versions += self.task.labels

    async def swap(self) -> LoadedTask:
        """Make another version live. Raises RuntimeError when that is refused."""
        self.num_swaps += 1
        if self.swaps_a_publish and self.num_swaps % self.swaps_a_publish == 0:
            await self._publish()
        *_, before, newest = self.versions
        await self._move(before if self.task.live.last == newest else newest)
        return self.task

    async def _publish(self) -> None:
        self.num_publishes += 1
        files = relabelled(self.files, f"-{self.num_publishes}")
        began = time.monotonic()
        version = await publish(self.client, self.task.name, {**files, "alias": b""})
        self.publish_s.append(time.monotonic() - began)
        self.versions.append(version)
        self.task.labels[version] = labels_of(files)  # those of old versions stay: answers may be on their way
        oldest = self.versions[0]
        if len(self.versions) > _NUM_KEPT and oldest != self.task.live.last:
            _check(await self.client.delete(f"/v1/tasks/{self.task.name}/versions/{oldest}"))
            self.versions.remove(oldest)

    async def _move(self, version: str) -> None:
        self.task.live.begin_move(version, time.monotonic())
        _check(await self.client.put(f"/v1/tasks/{self.task.name}/aliases/live", json={"version": version}))
        self.task.live.end_move(time.monotonic())


async def publish_all(client: httpx.AsyncClient, name: str, versions: Sequence[Parts]) -> LoadedTask:
    """Publish each of the versions; the last one is live."""
    labels = {await publish(client, name, files): labels_of(files) for files in versions}
    return LoadedTask(name, labels, LiveVersions(list(labels)[-1]))


async def publish(client: httpx.AsyncClient, name: str, files: Parts) -> str:
    """Publish one version and return it."""
    version: str = _check(await client.post(f"/v1/tasks/{name}/versions", files=files)).json()["version"]
    return version


def labels_of(files: Parts) -> frozenset[str]:
    """Return the labels that a version's answers have; none when it writes text."""
    return frozenset(json.loads(files["manifest"]).get("labels") or ())


def relabelled(files: Parts, ending: str) -> Parts:
    """Return the same prompt as another version: each of its labels with an ending."""
    manifest = json.loads(files["manifest"])
    manifest["labels"] = [label + ending for label in manifest["labels"]]
    if "label_words" in manifest:
        manifest["label_words"] = {label + ending: words for label, words in manifest["label_words"].items()}
    return {**files, "manifest": json.dumps(manifest).encode()}


def _check(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        request = answer.request
        raise RuntimeError(f"{request.method} {request.url.path} was answered {answer.status_code}: {answer.text}")
    return answer
