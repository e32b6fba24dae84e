"""One line of JSON for each event."""

from __future__ import annotations

import io
import json
import logging

from server.telemetry.logs import REQUEST_ID, JsonLines


def logged(write: object) -> dict[str, object]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    write(logger)  # type: ignore[operator]
    (line,) = stream.getvalue().splitlines()
    return json.loads(line)  # type: ignore[no-any-return]


def test_a_line_has_its_extras_and_request() -> None:
    token = REQUEST_ID.set("r1")
    try:
        line = logged(lambda logger: logger.info("moved %s", "live", extra={"task": "a/b", "serial": 3}))
    finally:
        REQUEST_ID.reset(token)
    assert (line["event"], line["task"], line["serial"], line["request_id"]) == ("moved live", "a/b", 3, "r1")
    assert str(line["time"]).endswith("Z")


def test_a_traceback_stays_on_the_line() -> None:
    def fail(logger: logging.Logger) -> None:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("failed")

    assert "two\nlines" in str(logged(fail)["traceback"])
