"""The OpenAPI document keeps its word: generated requests get documented answers and never a server error."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fakes import classifier
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from wire_server import Server

from server.app import create_app
from server.settings import Settings

SCHEMA = schemathesis.openapi.from_dict(create_app(Settings(backbone="none")).openapi())
PATIENCE_MS = "60000"
# A drained server would refuse all that comes after.
OPERATIONS = {
    operation.label: operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())
    if operation.path != "/admin/drain"
}
# A request can only be malformed where there is something to malform; a path that does not match is another route.
CASES = [(label, GenerationMode.POSITIVE) for label in OPERATIONS] + [
    (label, GenerationMode.NEGATIVE) for label, operation in OPERATIONS.items() if operation.body
]


@pytest.fixture(scope="module")
def used_server(shared_server: Server) -> Server:
    shared_server.renew()
    shared_server.publish(classifier())
    return shared_server


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_a_few_requests_of_each_route(label: str, mode: GenerationMode, used_server: Server) -> None:
    check(label, mode, used_server, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("label", "mode"), CASES)
def test_many_requests_of_each_route(label: str, mode: GenerationMode, used_server: Server) -> None:
    check(label, mode, used_server, 60)


def check(label: str, mode: GenerationMode, server: Server, num_requests: int) -> None:
    @settings(
        max_examples=num_requests,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(OPERATIONS[label].as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        # Which names exist and what a task takes is not in the document: a well-formed request may still be refused.
        excluded = [positive_data_acceptance]
        if label.endswith(("/infer/batch", "/versions", "/plan")):
            # A batch tells each item's fault in a 200; an upload's malformed part may also be 413.
            excluded.append(negative_data_rejection)
        # A millisecond is a valid time limit, and 503 its honest answer; here every request gets enough.
        case.call_and_validate(
            base_url=server.url, excluded_checks=excluded, headers={"X-Request-Timeout": PATIENCE_MS}
        )

    run()
