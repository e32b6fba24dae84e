#!/usr/bin/env bash
# Prove the Dockerfile where no container engine runs: build it as it stands with buildah (no daemon) on a base that
# debootstrap makes, then run the image and ask it over HTTP. As root, on Debian:
#   apt-get install --no-install-recommends buildah debootstrap podman runc
#   docker/prove.sh [FOLDER]          FOLDER keeps the base, the wheels and the image for the next time
# What differs from `docker build`: the base is Debian's own Python instead of python:3.12-slim, and the build has no
# network: it reads wheels that this machine's pip fetched, so PYTHON must be of the suite's version (bookworm: 3.11).
set -euo pipefail
cd "$(dirname "$0")/.."

WORK=$(realpath -m "${1:-build/containers}")
SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
PYTHON=${PYTHON:-python3}
PORT=${PORT:-8017}
BASE=localhost/softmux-base:$SUITE
IMAGE=localhost/softmux
NAME=softmux-proof-$$
# Below what any machine allows: without the right to raise limits, podman's own defaults are refused.
ULIMITS=(--ulimit nofile=4096:4096 --ulimit nproc=4096:4096)
STORAGE=(--root "$WORK/storage" --runroot "$WORK/run")

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
images() { buildah "${STORAGE[@]}" "$@"; }
containers() { podman "${STORAGE[@]}" --runtime runc --cgroup-manager cgroupfs "$@"; }
inside() { containers exec "$NAME" "$@"; }

make_base() {
  images inspect --type image "$BASE" >/dev/null 2>&1 && return
  say "base: Debian $SUITE and its Python"
  rm -rf "$WORK/base"
  debootstrap --variant=minbase --include=ca-certificates,python3-pip,python3-venv "$SUITE" "$WORK/base" "$MIRROR" >/dev/null
  ln -sf /usr/bin/python3 "$WORK/base/usr/local/bin/python"
  rm -rf "$WORK"/base/var/cache/apt/archives/*.deb
  local container
  container=$(images from scratch)
  images copy -q "$container" "$WORK/base" / >/dev/null
  images commit -q --rm "$container" "$BASE"
}

fetch_wheels() {
  say "wheels of the lock"
  mkdir -p "$WORK/wheels"
  # redis-py wants async-timeout before Python 3.11.3, which bookworm's 3.11.2 is; setuptools builds softmux itself.
  "$PYTHON" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' |
    "$PYTHON" -m pip download -qq -d "$WORK/wheels" -c constraints.txt -r /dev/stdin \
      "$(grep '^torch==' constraints.txt)" 'setuptools>=77' wheel async-timeout
  printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$WORK/pip.conf"
}

build() {
  say "buildah builds the Dockerfile"
  images bud --isolation chroot --format docker --pull-never --build-arg BASE_IMAGE="$BASE" \
    --build-arg VERSION=proof --build-arg REVISION="$(git rev-parse HEAD)" \
    -v "$WORK/wheels:/wheels:ro" -v "$WORK/pip.conf:/etc/pip.conf:ro" -t "$IMAGE" . >"$WORK/build.log" 2>&1 ||
    { tail -20 "$WORK/build.log"; fail "the build, see $WORK/build.log"; }
  images rmi --prune >/dev/null
  images images
}

start() { # as docker/compose.yaml does: read-only root, no capabilities, only /tmp and the store to write to
  containers run --detach --name "$NAME" --network host --no-healthcheck "${ULIMITS[@]}" \
    --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges \
    -v "$WORK/tiny/backbone:/backbone:ro" -v "$WORK/tiny/prompt:/prompt:ro" -v "$WORK/store:/store" \
    -e SOFTMUX_PORT="$PORT" -e SOFTMUX_HOST=127.0.0.1 -e OMP_NUM_THREADS=1 "$IMAGE" >/dev/null
}

health() { # the image's own health check, run the way an engine would
  local -a check
  mapfile -t check < <(containers image inspect "$IMAGE" --format '{{range .HealthCheck.Test}}{{println .}}{{end}}' | sed '/^$/d')
  [ "${check[0]}" = CMD ] || fail "the health check is no exec form: ${check[*]}"
  inside "${check[@]:1}"
}

await_health() {
  local tries=0
  until health; do
    [ "$((tries += 1))" -lt 240 ] || fail "never became healthy: $(containers logs "$NAME" 2>&1 | tail -5)"
    [ "$(containers inspect "$NAME" --format '{{.State.Running}}')" = true ] || fail "$(containers logs "$NAME" 2>&1 | tail -5)"
    sleep 0.5
  done
}

stop() { # SIGTERM, and the exit code that the server promises
  local code
  containers stop -t 40 "$NAME" >/dev/null
  code=$(containers inspect "$NAME" --format '{{.State.ExitCode}}')
  containers rm "$NAME" >/dev/null
  [ "$code" = 0 ] || fail "SIGTERM ended it with code $code instead of 0"
}

clean_up() { containers rm -f "$NAME" >/dev/null 2>&1 || true; }

mkdir -p "$WORK"
trap clean_up EXIT
make_base
fetch_wheels
build

say "a tiny backbone, written by the image's own libraries"
rm -rf "$WORK/tiny" "$WORK/store"
install -d -o 10001 -g 10001 "$WORK/tiny" "$WORK/store"
containers run --rm -i --network none --no-healthcheck "${ULIMITS[@]}" \
  -v "$WORK/tiny:/tiny" --entrypoint python "$IMAGE" - /tiny <docker/tiny_backbone.py 2>"$WORK/tiny.log" ||
  { tail -5 "$WORK/tiny.log"; fail "the tiny backbone"; }

say "it starts, healthy by its own check"
start
await_health
[ "$(inside id -u)" = 10001 ] || fail "runs as $(inside id -u)"
[ "$(inside stat -c %u /proc/1)" = 10001 ] || fail "process 1 is another user's"
inside sh -c 'touch /opt/softmux/x /etc/x /x' 2>/dev/null && fail "the root can be written to"
inside sh -c 'command -v gcc cc g++ ld make' && fail "build tools in the image"
inside python -c 'import pip' 2>/dev/null && fail "pip in the environment"
echo "user 10001, read-only root, no build tools, no pip"

say "asked over HTTP"
inside softmux push /prompt --task hello --url "http://127.0.0.1:$PORT"
inside softmux infer hello "good morning" --param max_new_tokens=4 --url "http://127.0.0.1:$PORT"
inside python -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:$PORT/readyz').read().decode())"

say "SIGTERM reaches the server: code 0; started again, the store has kept the task"
stop
start
await_health
inside softmux infer hello "good morning" --param max_new_tokens=4 --url "http://127.0.0.1:$PORT"
stop

say "CPU and CUDA differ in one argument"
grep -n 'TORCH_INDEX' Dockerfile
say "proved"
