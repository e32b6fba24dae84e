"""Publish random classifiers to a server and ask for them: every version differs from every other. Knows no store."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx

from bench.subjects.artifacts import classifier
from prompt_store.backbone_spec import BackboneSpec

ARTIFACT = {"Content-Type": "application/vnd.softmux.artifact"}


@dataclass
class RandomTask:
    """A task of a server, whose versions are drawn one after the other."""

    client: httpx.Client
    name: str
    spec: BackboneSpec
    num_virtual_tokens: int
    versions: list[str] = field(default_factory=list)
    num_drawn: int = 0

    @classmethod
    def on(cls, client: httpx.Client, name: str, num_virtual_tokens: int) -> RandomTask:
        """Learn what the server's backbone takes."""
        spec = BackboneSpec(**_checked(client.get("/v1/backbone")).json()["spec"])
        return cls(client, name, spec, num_virtual_tokens)

    def draw(self) -> bytes:
        """Return the bytes of a version that was never published before."""
        self.num_drawn += 1
        return classifier(self.spec, self.num_drawn, self.num_virtual_tokens).to_bytes()

    def publish(self, raw: bytes) -> str:
        """Publish a version; it is live on return."""
        answer = _checked(self.client.post(f"/v1/tasks/{self.name}/versions", content=raw, headers=ARTIFACT))
        self.versions.append(answer.json()["version"])
        return self.versions[-1]

    def move(self, version: str) -> None:
        """Make another version live."""
        _checked(self.client.put(f"/v1/tasks/{self.name}/aliases/live", json={"version": version}))

    def delete(self, version: str) -> None:
        """Delete a version that is not live."""
        _checked(self.client.delete(f"/v1/tasks/{self.name}/versions/{version}"))
        self.versions.remove(version)

    def answering_version(self, text: str) -> str:
        """Ask, and return the version that answered."""
        answer = _checked(self.client.post("/v1/infer", json={"task_id": self.name, "inputs": text}))
        version: str = answer.json()["version"]
        return version


def _checked(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise RuntimeError(
            f"{answer.request.method} {answer.request.url} was answered {answer.status_code}: {answer.text}"
        )
    return answer
