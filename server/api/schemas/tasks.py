"""Bodies and answers of the control plane: tasks, versions, aliases."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from prompt_store.refs import LIVE, parse_version
from prompt_store.store import AliasState, Guard, RollbackRule, Target, Terms, VersionRecord
from server.api.schemas.common import Body, View, moment
from server.publishing import Published, PublishReport
from server.tasks import Serving

VersionText = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="A whole digest.")]
Weight = Annotated[int, Field(ge=0, le=1_000_000)]
Rate = Annotated[float, Field(gt=0, le=1)]


class TargetBody(Body):
    """One version of an alias, with its share of the traffic."""

    version: VersionText
    weight: Weight = 100


class RuleBody(Body):
    """When the new versions of an alias are taken back unasked."""

    max_error_rate: Annotated[
        Rate | None, Field(description="Over this share of answers that the version failed by itself.")
    ] = None
    max_nonfinite_rate: Annotated[Rate | None, Field(description="Over this share of answers with NaN in them.")] = None
    window_s: Annotated[float, Field(gt=0, le=86_400, description="Of the answers of so many seconds.")] = 60.0
    min_requests: Annotated[int, Field(ge=1, le=1_000_000, description="Fewer answers say nothing.")] = 20

    @model_validator(mode="after")
    def _watches_something(self) -> Self:
        if self.max_error_rate is None and self.max_nonfinite_rate is None:
            raise ValueError("give max_error_rate, max_nonfinite_rate or both: this rule watches nothing")
        return self

    def as_rule(self) -> RollbackRule:
        """Return the rule as the store keeps it."""
        return RollbackRule(**self.model_dump())


class AliasBody(Body):
    """Where an alias should point: one `version`, or weighted `targets`; maybe with a rule that takes it back."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"version": "sha256:" + "0" * 64},
                {"version": "sha256:" + "0" * 64, "if_serial": 3, "rollback_rule": {"max_error_rate": 0.05}},
            ]
        }
    )

    version: VersionText | None = None
    targets: Annotated[list[TargetBody] | None, Field(min_length=1, max_length=16)] = None
    if_serial: Annotated[
        int | None, Field(ge=0, lt=2**63, description="Only if the alias still has this serial; 0: only if it is new.")
    ] = None

    rollback_rule: RuleBody | None = None
    reason: Annotated[str, Field(max_length=500, description="Why; it stands in the alias's history.")] = ""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.version is None) == (self.targets is None):
            raise ValueError("give either version or targets")
        if self.targets and not any(target.weight for target in self.targets):
            raise ValueError("every target has weight 0: nobody would answer")
        return self

    def as_targets(self) -> tuple[Target, ...]:
        """Return the targets that either form means."""
        if self.version is not None:
            return (Target(parse_version(self.version)),)
        return tuple(Target(parse_version(target.version), target.weight) for target in self.targets or ())

    def as_terms(self) -> Terms:
        """Return what goes with the move."""
        return Terms(self.rollback_rule.as_rule() if self.rollback_rule else None, self.reason)


class RollbackBody(Body):
    """Which alias goes back, and to where; by default to its state before the last move."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"alias": "live"}]})

    alias: Annotated[str, Field(max_length=63)] = LIVE
    to_serial: Annotated[int | None, Field(ge=1, lt=2**63)] = None


class TargetView(View):
    """One version of an alias, with its share of the traffic."""

    version: str
    weight: int


class GuardView(View):
    """A rollback rule at work: what it watches for, in which versions, and where the alias would go."""

    max_error_rate: float | None
    max_nonfinite_rate: float | None
    window_s: float
    min_requests: int
    watched: list[str]
    to_serial: int


class AliasView(View):
    """Where an alias points in the store, and what this replica serves under it."""

    alias: str
    version: str
    targets: list[TargetView]
    serial: int
    actor: str
    moved_at: str
    reason: str = ""
    rollback_rule: GuardView | None = None
    serving_version: str | None = None
    serving_serial: int | None = None
    serving_reason: str | None = None


class VersionView(View):
    """One version's record."""

    version: str
    created_at: str
    actor: str
    format: str
    method: str
    kind: str
    num_virtual_tokens: int
    size_bytes: int
    checks: list[str]
    description: str
    quarantined: str | None
    resident: bool


class VersionDetail(VersionView):
    """One version's record and manifest."""

    task: str
    manifest: dict[str, Any]


class AliasHistory(View):
    """Every state an alias has had, oldest first; the last one holds."""

    task: str
    states: list[AliasView]


class ResidencyAnswer(View):
    """Whether a version is on the device now."""

    resident: bool


class VerifyAnswer(View):
    """One line for each golden example that came out as promised."""

    checks: list[str]


class TaskView(View):
    """One task with its versions, oldest first, and aliases."""

    task: str
    kind: str | None
    versions: list[VersionView]
    aliases: list[AliasView]


class TaskSummary(View):
    """One line of a listing."""

    task: str
    kind: str | None
    live_version: str | None
    resident: bool
    requests_per_s: float
    num_versions: int


class TaskList(View):
    """One page; `cursor` is null on the last."""

    tasks: list[TaskSummary]
    cursor: str | None


class VersionList(View):
    """A task's versions, oldest first."""

    task: str
    versions: list[VersionView]


class PublishAnswer(View):
    """What a publish did."""

    task: str
    version: str
    format: str
    method: str
    kind: str
    num_virtual_tokens: int
    size_bytes: int
    checks: list[str]
    created: bool
    alias: AliasView | None


class PlanAnswer(View):
    """What a publish would do."""

    version: str
    format: str
    method: str
    kind: str
    template: str
    num_virtual_tokens: int
    size_bytes: int
    checks: list[str]


def alias_view(state: AliasState, serving: Serving | None) -> AliasView:
    """Show an alias beside what this replica serves under it."""
    served = serving.state if serving else None
    return AliasView(
        alias=state.alias,
        version=_main(state),
        targets=[TargetView(version=target.version, weight=target.weight) for target in state.targets],
        serial=state.serial,
        actor=state.actor,
        moved_at=moment(state.moved_at),
        reason=state.reason,
        rollback_rule=_guard_view(state, state.guard) if state.guard else None,
        serving_version=_main(served) if served else None,
        serving_serial=served.serial if served else None,
        serving_reason=_reason(state, serving),
    )


def version_view(record: VersionRecord, is_resident: bool) -> VersionView:
    """Show a version's record."""
    return VersionView(
        version=record.version,
        created_at=moment(record.created_at),
        actor=record.actor,
        format=record.format,
        method=record.method,
        kind=record.kind,
        num_virtual_tokens=record.num_virtual_tokens,
        size_bytes=record.size_bytes,
        checks=list(record.checks),
        description=record.description,
        quarantined=record.quarantined,
        resident=is_resident,
    )


def publish_answer(published: Published, serving: Serving | None) -> PublishAnswer:
    """Show what a publish did."""
    record = published.record
    return PublishAnswer(
        task=str(published.task),
        version=record.version,
        format=record.format,
        method=record.method,
        kind=record.kind,
        num_virtual_tokens=record.num_virtual_tokens,
        size_bytes=record.size_bytes,
        checks=list(record.checks),
        created=published.created,
        alias=alias_view(published.alias, serving) if published.alias else None,
    )


def plan_answer(report: PublishReport) -> PlanAnswer:
    """Show what a publish would do."""
    return PlanAnswer(
        version=report.version,
        format=report.format,
        method=report.method,
        kind=report.kind,
        template=report.template,
        num_virtual_tokens=report.num_virtual_tokens,
        size_bytes=report.size_bytes,
        checks=list(report.checks),
    )


def _guard_view(state: AliasState, guard: Guard) -> GuardView:
    rule = guard.rule
    return GuardView(
        max_error_rate=rule.max_error_rate,
        max_nonfinite_rate=rule.max_nonfinite_rate,
        window_s=rule.window_s,
        min_requests=rule.min_requests,
        watched=sorted(state.watched()),
        to_serial=guard.to_serial,
    )


def _main(state: AliasState) -> str:
    return max(state.targets, key=lambda target: target.weight).version


def _reason(state: AliasState, serving: Serving | None) -> str | None:
    if serving is None:
        return "no request has named this alias here yet; its first one loads it"
    if serving.state.serial == state.serial:
        return None
    return serving.reason or "this replica has not followed the last move yet"
