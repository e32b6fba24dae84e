"""The container files agree with the server and with each other, and real linters take them."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wire_server import running

from server.serve import LAST_WORDS_S
from server.settings import Limits, Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = ROOT / "docker" / "compose.yaml"
ENVIRONMENT = {"PATH": os.environ["PATH"], "BACKBONE": "/models/x", "STORE_PASSWORD": "00ff"}


def tool(name: str) -> str:
    """Return a program of this environment, or of the machine."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)s", text)
    assert match, text
    return int(match[1])


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as Docker's own compose reads them, in one form."""
    done = subprocess.run(
        [tool("docker-compose"), "-f", COMPOSE, "config", "--format", "json"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def instructions(word: str) -> list[str]:
    """Return the arguments of every `word` of the Dockerfile, its continued lines joined."""
    plain = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return re.findall(rf"^{word} +(.*)$", plain, re.MULTILINE)


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_the_image_runs_the_server_itself_and_not_as_root() -> None:
    assert instructions("FROM") == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    assert instructions("USER") == ["10001:10001"]
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["softmux"]  # exec form: signals reach it
    assert json.loads(instructions("CMD")[0]) == ["serve"]


def test_the_build_is_sent_what_it_copies_and_little_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    sources = {path for line in instructions("COPY") if "--from" not in line for path in line.split()[:-1]}

    def is_sent(path: str) -> bool:
        last = "*"
        for line in lines:
            pattern = line.removeprefix("!")
            if fnmatch.fnmatch(path, pattern):
                last = line
        return last.startswith("!")

    assert {path for path in sources if not is_sent(path) or not (ROOT / path).exists()} == set()
    assert not any(map(is_sent, [".git", ".venv", "tests", "docker/compose.yaml", "server/__pycache__"]))


def test_settings_said_in_containers_exist(services: dict[str, Any]) -> None:
    in_image = set(re.findall(r"\bSOFTMUX_([A-Z_]+)=", " ".join(instructions("ENV"))))
    in_compose = {name.removeprefix("SOFTMUX_") for name in services["softmux"]["environment"]}
    in_notes = set(re.findall(r"SOFTMUX_([A-Z_]+[A-Z])", (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")))

    roots = {name.split("__")[0].lower() for name in in_image | in_compose | in_notes}
    assert roots <= set(Settings.model_fields)


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.cuda.yaml"]])
def test_compose_takes_its_files(files: list[str]) -> None:
    words = [word for file in files for word in ("-f", ROOT / "docker" / file)]
    done = subprocess.run(
        [tool("docker-compose"), *words, "config", "--quiet"], env=ENVIRONMENT, capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("missing", ["BACKBONE", "STORE_PASSWORD"])
def test_compose_asks_for_what_has_no_default(missing: str) -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != missing}
    done = subprocess.run(
        [tool("docker-compose"), "-f", COMPOSE, "config", "--quiet"], env=environment, capture_output=True, text=True
    )

    assert done.returncode != 0
    assert missing in done.stderr


def test_two_replicas_that_get_the_time_they_need_to_end(services: dict[str, Any]) -> None:
    replica = services["softmux"]
    defaults = Settings.model_fields["shutdown_timeout_s"].default

    assert replica["deploy"]["replicas"] == 2
    delay_s = float(replica["environment"]["SOFTMUX_SHUTDOWN_DELAY_S"])
    assert seconds(replica["stop_grace_period"]) > delay_s + defaults + LAST_WORDS_S
    assert seconds(services["proxy"]["stop_grace_period"]) >= seconds(replica["stop_grace_period"])


def test_nobody_beyond_this_machine_is_let_in(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert not services["softmux"].get("ports")
    assert not services["store"].get("ports")
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name


def test_files_that_are_mounted_exist(services: dict[str, Any]) -> None:
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    ours = [Path(mount["source"]) for mount in mounts if mount["type"] == "bind" and mount["source"] != "/models/x"]

    assert len(ours) == 5
    assert [path for path in ours if not path.exists()] == []


def test_the_proxy_waits_longer_than_any_request_may_take() -> None:
    timeouts = dict(
        re.findall(r"^ +timeout (\w+) +(\d+)s", (ROOT / "docker" / "haproxy.cfg").read_text(), re.MULTILINE)
    )

    assert int(timeouts["server"]) > Limits().max_request_timeout_s
    assert timeouts["client"] == timeouts["server"]


def test_prometheus_takes_its_file() -> None:
    done = subprocess.run(
        [tool("promtool"), "check", "config", ROOT / "docker" / "prometheus.yaml"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr


def probe(port: int) -> int:
    """Run the image's health check as the image does, with a proxy that it must not ask."""
    command = json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])
    assert command == ["python", "-I", "/opt/softmux/livez.py"]
    environment = {"SOFTMUX_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, "-I", ROOT / "docker" / "livez.py"], env=environment).returncode


def test_the_health_check_asks_the_worker() -> None:
    with running() as server:
        assert probe(server.port) == 0
        server.engine.heartbeat_age_s = 1000.0
        assert probe(server.port) == 1
    assert probe(server.port) == 1


def test_the_services_read_what_grafana_is_given() -> None:
    folder = ROOT / "docker" / "grafana"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    provider = yaml.safe_load((folder / "dashboards" / "softmux.yaml").read_text())["providers"][0]
    dashboard = json.loads((folder / "dashboards" / "softmux.json").read_text())

    assert {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"} == {source["uid"]}
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"
