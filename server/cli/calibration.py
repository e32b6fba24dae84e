"""The prior of label words, from their logits for inputs that say nothing (Zhao et al. 2021, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer

from server.cli.aliases import describe_targets
from server.cli.client import Client
from server.cli.errors import RefusedError
from server.cli.options import TaskPath
from server.cli.publishing import Destination, publish
from server.cli.versions import pick

Prior = dict[str, list[list[float]]]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What an alias serves, alone and unguarded: the version to measure, and the serial to move the alias from."""

    task: TaskPath
    alias: str
    version: str
    serial: int


def calibrated(client: Client, task: TaskPath, alias: str) -> Calibrated:
    """Look at what `alias` serves now. Raises typer.BadParameter when that is not one version, or is watched."""
    record = client.get(task.url)
    state = next((one for one in record["aliases"] if one["alias"] == alias), None)
    if state is not None and (len(state["targets"]) > 1 or state.get("rollback_rule")):
        found = describe_targets(state["targets"]) + (" with a rollback rule" if state.get("rollback_rule") else "")
        raise typer.BadParameter(
            f"{task}@{alias} serves {found}. One version is measured, and takes the whole alias when it is calibrated: "
            f"end the canary first, with `softmux alias {task} {alias}=VERSION`, or name another alias",
            param_hint="--alias",
        )
    version = pick(record, alias)
    assert state is not None, "pick refuses an alias that is not there"
    return Calibrated(task, alias, version, state["serial"])


def measure(client: Client, of: Calibrated, inputs: Sequence[Any]) -> Prior:
    """Return, by label and word, the mean over `inputs` of each token's logit."""
    parameters = {"words": True, "top_k": 1}
    body = {"task_id": f"{of.task}@{of.version}", "inputs": list(inputs), "parameters": parameters}
    told = [output["words"] for output in client.send("POST", "/v1/infer", body)["outputs"]]
    return {label: _means([one[label] for one in told]) for label in told[0]}


def publish_with(client: Client, of: Calibrated, prior: Prior, is_dry_run: bool, is_quiet: bool) -> dict[str, Any]:
    """Publish the version with its prior, and move the alias there unless somebody moved it meanwhile."""
    destination = Destination(of.task, "", is_dry_run=is_dry_run, base_version=of.version)
    report: dict[str, Any] = publish(client, None, scoring(prior), destination, is_quiet)
    if is_dry_run:
        return report
    try:
        wanted = {"version": report["version"], "if_serial": of.serial}
        return report | {"alias": client.send("PUT", f"{of.task.url}/aliases/{of.alias}", wanted)}
    except RefusedError as error:
        error.hints = [f"{report['version']} was published, and is not live: measure again"]
        raise


def scoring(prior: Prior) -> dict[str, Any]:
    """Return the manifest's part that calibrates with `prior`: probabilities of words, divided by the prior's."""
    return {"label_scoring": {"words": "log-probabilities", "prior": prior}}


def _means(answers: Sequence[Sequence[dict[str, Any]]]) -> list[list[float]]:
    """Average each token of each word over all answers, which name the same words in the same order."""
    words = zip(*answers, strict=True)
    return [[sum(token) / len(token) for token in zip(*(one["logits"] for one in word), strict=True)] for word in words]
