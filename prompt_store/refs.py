"""Names: parsed once at the border, trusted afterwards. Knows nothing but text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from prompt_store.errors import InvalidNameError

Version = NewType("Version", str)
"""`sha256:` and 64 lower-case hex digits: the digest of an artifact's canonical bytes."""

Alias = NewType("Alias", str)

LIVE = Alias("live")
DEFAULT_TENANT = "default"
RESERVED_NAMES = frozenset({"infer", "versions", "aliases", "rollback"})

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"sha256:[0-9a-f]{64}")


def parse_name(text: str, what: str) -> str:
    """Return `text` if it is a well-formed name; `what` ("task", "tenant") stands in the message.

    Raises InvalidNameError.
    """
    if not _NAME.fullmatch(text) or ".." in text:
        raise InvalidNameError(
            f"{what} name {text[:80]!r} is not well formed: use 1 to 63 of a-z 0-9 . _ -, "
            "starting with a letter or digit, without '..'"
        )
    if text in RESERVED_NAMES:
        raise InvalidNameError(f"{what} name {text!r} is reserved: {', '.join(sorted(RESERVED_NAMES))}")
    return text


def parse_alias(text: str) -> Alias:
    """Return `text` as an alias. Raises InvalidNameError."""
    return Alias(parse_name(text, "alias"))


def parse_version(text: str) -> Version:
    """Return `text` as a version. Raises InvalidNameError unless it is a whole digest."""
    if not _VERSION.fullmatch(text):
        raise InvalidNameError(
            f"version {text[:80]!r} is not a digest: expected 'sha256:' and 64 lower-case hex digits"
        )
    return Version(text)


@dataclass(frozen=True, slots=True, order=True)
class TaskName:
    """The public name of a task."""

    tenant: str
    name: str

    @classmethod
    def parse(cls, text: str, default_tenant: str = DEFAULT_TENANT) -> TaskName:
        """Read `[tenant/]name`. Raises InvalidNameError."""
        tenant, slash, name = text.rpartition("/")
        return cls(parse_name(tenant if slash else default_tenant, "tenant"), parse_name(name, "task"))

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class TaskRef:
    """What a request names: a task at an alias, or at exactly one version."""

    task: TaskName
    target: Alias | Version = LIVE

    @classmethod
    def parse(cls, text: str, default_tenant: str = DEFAULT_TENANT) -> TaskRef:
        """Read `[tenant/]name[@alias | @sha256:...]`. Raises InvalidNameError."""
        name, at, target = text.partition("@")
        task = TaskName.parse(name, default_tenant)
        if not at:
            return cls(task)
        return cls(task, parse_version(target) if target.startswith("sha256:") else parse_alias(target))

    @property
    def version(self) -> Version | None:
        """The version if the reference names one exactly."""
        return Version(self.target) if self.target.startswith("sha256:") else None

    def __str__(self) -> str:
        return f"{self.task}@{self.target}"
