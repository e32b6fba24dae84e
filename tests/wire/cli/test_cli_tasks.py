"""`softmux ls`, `alias`, `rollback`: pages, digests, weights."""

from __future__ import annotations

from cli_stub import V1, V2, Canned, Softmux, Stub


class TestTasks:
    def test_ls_follows_the_pages(self, stub: Stub, softmux: Softmux) -> None:
        rest = {"kind": "generation", "live_version": V1, "resident": True, "requests_per_s": 1.5, "num_versions": 2}
        first = {"tasks": [{"task": "acme/a"} | rest], "cursor": "c"}
        last = {"tasks": [{"task": "acme/b"} | rest | {"kind": None, "live_version": None}], "cursor": None}
        stub.on("GET /v1/tasks", Canned(200, first))
        stub.on("GET /v1/tasks?cursor=c", Canned(200, last))

        assert [task["task"] for task in softmux("ls", "--json").json] == ["acme/a", "acme/b"]
        assert "a1a1a1a1a1a1" in softmux("ls").out

    def test_show_draws_versions_aliases_and_what_to_know(self, stub: Stub, softmux: Softmux) -> None:
        alias = {
            "alias": "live",
            "version": V2,
            "targets": [{"version": V2, "weight": 100}],
            "serial": 3,
            "moved_at": "2026-01-02T03:04:05+00:00",
            "serving_version": V1,
            "serving_reason": "this replica has not followed the last move yet",
        }
        version = {
            "version": V1,
            "method": "prefix-tuning",
            "kind": "generation",
            "num_virtual_tokens": 16,
            "size_bytes": 2 << 20,
            "created_at": "2026-01-02T03:04:05+00:00",
            "checks": ["weights unverified"],
            "quarantined": "three strikes",
        }
        stub.on("GET /v1/tasks/t", Canned(200, {"task": "default/t", "versions": [version], "aliases": [alias]}))

        out = softmux("show", "t").out

        for told in ("prefix-tuning", "2.0 MiB", "b2b2b2b2b2b2", "three strikes", "not followed", "weights unverified"):
            assert told in out

    def test_alias_completes_digests_and_sends_weights(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("GET /v1/tasks/t", Canned(200, {"versions": [{"version": V1}, {"version": V2}]}))
        targets = [{"version": V1, "weight": 90}, {"version": V2, "weight": 10}]
        stub.on("PUT /v1/tasks/t/aliases/live", Canned(200, {"alias": "live", "targets": targets, "serial": 3}))

        ended = softmux("alias", "t", "live=a1a1a1a1:90", f"live={V2}:10", "--if-serial", "2")

        assert stub.asked[-1].json == {"targets": targets, "if_serial": 2}
        assert "t@live -> a1a1a1a1a1a1:90, b2b2b2b2b2b2:10 (serial 3)" in ended.out

    def test_alias_of_an_unknown_digest_names_those_there_are(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("GET /v1/tasks/t", Canned(200, {"versions": [{"version": V1}]}))

        ended = softmux("alias", "t", "live=ffffffff")

        assert ended.code == 2
        assert "a1a1a1a1a1a1" in ended.err

    def test_rollback(self, stub: Stub, softmux: Softmux) -> None:
        state = {"alias": "live", "targets": [{"version": V1, "weight": 100}], "serial": 4}
        stub.on("POST /v1/tasks/t/rollback", Canned(200, state))

        assert "t@live -> a1a1a1a1a1a1 (serial 4)" in softmux("rollback", "t").out
        assert stub.asked[0].json == {"alias": "live"}

    def test_alias_sends_a_rule(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("GET /v1/tasks/t", Canned(200, {"versions": [{"version": V1}, {"version": V2}]}))
        targets = [{"version": V1, "weight": 90}, {"version": V2, "weight": 10}]
        rule = {"max_error_rate": 0.05, "max_nonfinite_rate": None, "window_s": 30.0, "min_requests": 20}
        shown = rule | {"watched": [V2], "to_serial": 1}
        state = {"alias": "live", "targets": targets, "serial": 3, "rollback_rule": shown}
        stub.on("PUT /v1/tasks/t/aliases/live", Canned(200, state))

        words = (
            "live=a1a1a1a1:90",
            "live=b2b2b2b2:10",
            "--max-error-rate",
            "0.05",
            "--window",
            "30",
            "--reason",
            "try",
        )
        ended = softmux("alias", "t", *words)

        sent = {"targets": targets, "rollback_rule": {"max_error_rate": 0.05, "window_s": 30.0}, "reason": "try"}
        assert stub.asked[-1].json == sent
        assert "back to serial 1 when b2b2b2b2b2b2 has over 0.05 errors in 20 or more answers of 30 s" in ended.out

    def test_a_rule_must_watch_something(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("GET /v1/tasks/t", Canned(200, {"versions": [{"version": V1}]}))

        ended = softmux("alias", "t", "live=a1a1a1a1", "--min-requests", "5")

        assert ended.code == 2
        assert "--max-error-rate" in ended.err

    def test_history_tells_who_when_and_why(self, stub: Stub, softmux: Softmux) -> None:
        state = {"alias": "live", "targets": [{"version": V1, "weight": 100}], "serial": 1, "actor": "ann"}
        moved = state | {"moved_at": "2026-01-02T03:04:05+00:00", "reason": "", "rollback_rule": None}
        back = moved | {"serial": 2, "actor": "rollback-rule", "reason": "version b2b2: 3 of 9 answers [failed]"}
        stub.on("GET /v1/tasks/t/aliases/canary", Canned(200, {"task": "default/t", "states": [moved, back]}))

        lines = softmux("history", "t", "--alias", "canary").out.splitlines()

        assert "rollback-rule" in lines[1]
        assert "3 of 9 answers [failed]" in lines[1]
        assert "ann" in lines[2]
