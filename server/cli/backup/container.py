"""What a backup is: a tar that is written and read from beginning to end, and proves itself by digests.

softmux-backup.json           format, schema, how many bytes of artifacts are to come
artifacts/<tenant>/<digest>   canonical bytes, before any ledger that names them
tasks/<digest>.jsonl          some tasks, one a line, with their records and every state of their aliases
end.json                      counts, and the digest of every name above: without it the file was cut short
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from prompt_store.refs import Version
from server.cli.errors import LocalFileError

FORMAT = "softmux-backup"
SCHEMA = 1
HEAD = "softmux-backup.json"
END = "end.json"
TASKS_PER_LEDGER = 256
MAX_ARTIFACT_BYTES = 512 << 20
MAX_LEDGER_BYTES = 512 << 20

_ARTIFACT = re.compile(r"artifacts/([a-z0-9][a-z0-9._-]{0,62})/([0-9a-f]{64})")
_LEDGER = re.compile(r"tasks/([0-9a-f]{64})\.jsonl")


class BackupFileError(LocalFileError):
    """The file is no backup, or is damaged; nothing of it can be trusted."""

    type = "damaged_backup"


@dataclass(slots=True)
class Tally:
    """What stands in a backup so far, as its end will say."""

    num_artifacts: int = 0
    num_tasks: int = 0
    _names: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, name: str, num_tasks: int = 0) -> None:
        """Count one member."""
        self._names.update(name.encode() + b"\n")
        self.num_artifacts += name.startswith("artifacts/")
        self.num_tasks += num_tasks

    def as_dict(self) -> dict[str, object]:
        """Return what the end says."""
        counts = {"num_artifacts": self.num_artifacts, "num_tasks": self.num_tasks}
        return {**counts, "names": f"sha256:{self._names.hexdigest()}"}


def artifact_name(tenant: str, version: Version) -> str:
    """Return the name of the member with these bytes."""
    return f"artifacts/{tenant}/{version.removeprefix('sha256:')}"


def ledger_name(raw: bytes) -> str:
    """Return the name of the member with this ledger."""
    return f"tasks/{hashlib.sha256(raw).hexdigest()}.jsonl"


def read_artifact_name(name: str) -> tuple[str, Version] | None:
    """Return tenant and version, if it is the name of an artifact."""
    found = _ARTIFACT.fullmatch(name)
    return (found[1], Version(f"sha256:{found[2]}")) if found else None


def is_ledger_name(name: str) -> bool:
    """Say whether it is the name of a ledger."""
    return _LEDGER.fullmatch(name) is not None
