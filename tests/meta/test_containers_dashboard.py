"""Every query of the Grafana dashboard has an answer in what /metrics says, and everything it says has a panel."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fakes import classifier, writer
from prometheus_client.parser import text_string_to_metric_families
from wire_server import Server, running

from server.engine.errors import OutOfMemoryError

DOCKER = Path(__file__).parents[2] / "docker"
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "softmux.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
QUERIES = sorted({target["expr"] for _, target in TARGETS})
OF_PROMETHEUS = {"instance", "job"}  # labels that a scrape adds
Series = dict[str, list[dict[str, str]]]  # name -> the labels of each series


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        started.publish(classifier())
        started.publish(writer(), "story")
        metrics = started.services.metrics  # what the fake engine never tells
        metrics.prompt_evictions.labels("budget")
        metrics.prompt_loads.labels("device", "loaded")
        metrics.prompt_load_seconds.labels("device")
        metrics.row_failures.labels("nonfinite")
        metrics.alias_rollbacks.labels("errors")
        metrics.rejections.labels("queue_full")
        ask(started)
        yield started


def ask(server: Server) -> None:
    """Have something of everything happen."""
    server.engine.row_errors = [OutOfMemoryError("no room")]
    story = {"task_id": "story", "inputs": "x", "parameters": {"stream": True, "max_new_tokens": 3}}
    with server.client() as client:
        assert client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "fine"}).status_code == 503
        assert client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "fine"}).status_code == 200
        assert client.post("/v1/infer", json=story).status_code == 200
    metrics = server.services.metrics
    metrics.prompt_load_seconds.labels("device").observe(0.1)
    for histogram in (metrics.step_rows, metrics.step_tokens, metrics.step_distinct_tasks, metrics.step_seconds):
        histogram.observe(0.5)


@pytest.fixture(scope="module")
def series(server: Server) -> Series:
    found: Series = {}
    with server.client() as client:
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample.labels)
    return found | {"up": [{"job": "softmux", "instance": "softmux:8000"}]}


def selectors(query: str) -> dict[str, str]:
    """Return the metrics that a query reads, each with what stands in its braces."""
    return dict(re.findall(r"\b(softmux_\w+|up)\{([^}]*)\}", query))


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_reads_what_is_there(query: str, series: Series) -> None:
    read = selectors(query)
    assert set(re.findall(r"\bsoftmux_\w+", query)) <= set(read)  # none escapes this test for want of braces
    for name, matchers in read.items():
        assert name in series, f"/metrics has no {name}"
        for label, relation, value in re.findall(r'(\w+)(=~?)"([^"]*)"', matchers):
            pattern = value if relation == "=~" else re.escape(value)
            assert label in OF_PROMETHEUS or any(re.fullmatch(pattern, one.get(label, "")) for one in series[name])


@pytest.mark.parametrize(("title", "target"), TARGETS)
def test_what_is_grouped_or_written_in_a_legend_is_a_label(title: str, target: dict[str, Any], series: Series) -> None:
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
    in_legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    labels = {label for name in selectors(target["expr"]) for one in series[name] for label in one}

    assert grouped <= labels | OF_PROMETHEUS, title
    assert in_legend == grouped - {"le"}, title


def test_everything_measured_has_a_panel(series: Series) -> None:
    shown = " ".join(QUERIES)
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in series if not name.endswith("_created")}

    assert {name for name in families if name not in shown} == set()


def test_panels_do_not_overlap() -> None:
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A real Prometheus with our configuration, which is told where the server is instead of asking DNS."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DOCKER / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
    [job] = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--config.file", folder / "prometheus.yaml", "--storage.tsdb.path", folder / "data"]
    process = subprocess.Popen([program, *words, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
            while not is_ready(client):
                assert process.poll() is None, "Prometheus did not start"
            yield client
    finally:
        process.terminate()
        process.wait(20)


def is_ready(prometheus: httpx.Client) -> bool:
    try:
        return prometheus.get("/-/ready").is_success
    except httpx.TransportError:
        return False


def value_of(prometheus: httpx.Client, query: str) -> float:
    """Return the first value of a query, NaN while there is none."""
    said = query.replace("$__rate_interval", "10s").replace("$instance", ".*")
    answer = prometheus.get("/api/v1/query", params={"query": said}).json()
    assert answer["status"] == "success", answer
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else math.nan


def test_prometheus_answers_every_query(server: Server, prometheus: httpx.Client) -> None:
    unanswered = set(QUERIES)
    while unanswered:
        ask(server)
        unanswered = {query for query in unanswered if not math.isfinite(value_of(prometheus, query))}


def test_the_dashboard_can_be_drawn_without_grafana(server: Server, prometheus: httpx.Client, tmp_path: Path) -> None:
    while not math.isfinite(value_of(prometheus, "sum(softmux_num_requests_waiting)")):
        ask(server)
    picture = tmp_path / "dashboard.png"
    words = [DOCKER / "grafana" / "picture.py", "--prometheus", str(prometheus.base_url), "--out", picture]

    drawn = subprocess.run([sys.executable, "-W", "error", *words, "--minutes", "1"], capture_output=True, text=True)

    assert drawn.returncode == 0, drawn.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
