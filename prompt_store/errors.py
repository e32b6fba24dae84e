"""Every error a soft prompt or its store can cause; knows nothing of HTTP.

SoftmuxError
├── InvalidNameError              a task, alias, version or reference is not well formed
├── ArtifactError                 what was brought cannot be served; retrying cannot help
│   ├── MalformedFileError        not a safetensors file we accept, or broken
│   ├── TooLargeError             over a cap on bytes
│   ├── ManifestError             the manifest does not parse or contradicts itself
│   ├── CheckpointError           no family, several families, or a family that is not taken
│   │   ├── NoSoftPromptError     it changes the backbone's layers instead (LoRA)
│   │   ├── UnservedMethodError   a soft prompt of a kind that no server runs (infix tuning, deep prompts)
│   │   ├── UnreadPrefixError     its training never read the prefix
│   │   ├── TrainedBackboneError  its training changed the backbone, and that is not the one served
│   │   ├── MissingLayerError     a head, or a layer in front of it, is in neither the file nor the backbone
│   │   └── WrongStackError       for an encoder's input, or a decoder's, that this backbone has not
│   ├── UnfitError                does not fit this backbone
│   │   ├── MisshapenError        other widths, heads or layers
│   │   ├── BadValuesError        not finite after the cast, or far out of scale
│   │   └── NoPositionsError      leaves no position for text
│   └── TrialError                ran alone and did not answer as it should
└── StoreError
    ├── NotFoundError
    │   ├── TaskNotFoundError
    │   ├── VersionNotFoundError
    │   └── AliasNotFoundError
    ├── ConflictError             the state forbids it: in use, quarantined, nothing to roll back to
    ├── SerialConflictError       somebody else moved the alias first
    ├── StoreCorruptError         stored bytes do not have their digest
    ├── QuotaError              the tenant keeps as much as it may
    ├── StoreFullError            no room for what was brought
    └── StoreUnavailableError     the store does not answer; retrying can help
"""

from __future__ import annotations


class SoftmuxError(Exception):
    """The root of every error softmux raises on purpose."""


class InvalidNameError(SoftmuxError):
    """A task, alias, version or reference is not well formed."""


class ArtifactError(SoftmuxError):
    """What was brought cannot be served. `reasons` lists every one that was found, not just the first."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class MalformedFileError(ArtifactError):
    """The bytes are not a safetensors file that we accept."""


class TooLargeError(ArtifactError):
    """A cap on bytes was passed."""


class ManifestError(ArtifactError):
    """The manifest does not parse or contradicts itself."""


class CheckpointError(ArtifactError):
    """The checkpoint belongs to no family, to several, or to one that is not taken."""


class NoSoftPromptError(CheckpointError):
    """It changes the backbone's layers; softmux serves soft prompts on a frozen one."""


class UnservedMethodError(CheckpointError):
    """A soft prompt of a kind that no server runs."""


class UnreadPrefixError(CheckpointError):
    """Its training never read the prefix: the vectors are as they began."""


class TrainedBackboneError(CheckpointError):
    """Its training changed the backbone too, and that one is not served."""


class MissingLayerError(CheckpointError):
    """A head, or a layer in front of it, is in neither the file nor the backbone."""


class WrongStackError(CheckpointError):
    """For the input of an encoder, or of a decoder, that this backbone has not."""


class UnfitError(ArtifactError):
    """The artifact does not fit this backbone."""


class MisshapenError(UnfitError):
    """It has other widths, heads or layers than the backbone."""


class BadValuesError(UnfitError):
    """Its numbers are not finite after the cast, or far out of scale."""


class NoPositionsError(UnfitError):
    """It leaves no position for text."""


class TrialError(ArtifactError):
    """The artifact ran alone and did not answer as it should."""


class StoreError(SoftmuxError):
    """A prompt store could not do what it was asked."""


class NotFoundError(StoreError):
    """A name that is not in the store, or belongs to somebody else."""


class TaskNotFoundError(NotFoundError):
    """No such task."""


class VersionNotFoundError(NotFoundError):
    """No such version of the task."""


class AliasNotFoundError(NotFoundError):
    """No such alias of the task."""


class ConflictError(StoreError):
    """The state of the store forbids it: in use, quarantined, nothing to roll back to."""


class SerialConflictError(StoreError):
    """The alias has another serial than the caller expected: somebody moved it first."""


class StoreCorruptError(StoreError):
    """Stored bytes do not have the digest they are named by."""


class QuotaError(StoreError):
    """The tenant keeps as much as it may; deleting makes room."""


class StoreFullError(StoreError):
    """There is no room for what was brought."""


class StoreUnavailableError(StoreError):
    """The store does not answer now."""
