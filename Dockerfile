# softmux in a container: `make image` for CPUs, `make image DEVICE=cu130` for CUDA. How to run it: docs/containers.md.
# A release pins the base by digest: --build-arg BASE_IMAGE=docker.io/library/python:3.12-slim-trixie@sha256:...
ARG BASE_IMAGE=docker.io/library/python:3.12-slim-trixie

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PYTHON=/opt/softmux/bin/python
WORKDIR /src
# What changes seldom first: an edit of the code installs one small package and not torch again. The environment that
# goes into the image has no pip of its own. torch comes from its own index, whose builds have a suffix (+cpu, +cu130)
# that the pin allows.
COPY pyproject.toml constraints.txt ./
RUN python -m venv --without-pip /opt/softmux \
 && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > dependencies.txt \
 && pip install --index-url "$TORCH_INDEX" --no-deps "$(grep '^torch==' constraints.txt)" \
 && pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt -r dependencies.txt \
 # torch's headers and its own tests: 170 MB that nobody uses in here. It will not start without torch_shm_manager.
 && torch="$(echo /opt/softmux/lib/python3.*/site-packages/torch)" \
 && rm -rf "$torch/include" "$torch/share" "$torch/test" \
 && find "$torch/bin" -type f ! -name torch_shm_manager -delete
COPY README.md LICENSE ./
COPY prompt_store prompt_store
COPY server server
RUN pip install --no-deps .

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="softmux" \
      org.opencontainers.image.description="Serve thousands of soft prompts from one frozen transformers backbone" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp softmux \
 && install -d -o softmux -g softmux /store
COPY --from=build /opt/softmux /opt/softmux
COPY docker/livez.py /opt/softmux/livez.py
# The root may be read-only: what libraries like to keep goes to /tmp, and nothing is looked up on a hub.
ENV PATH=/opt/softmux/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/tmp/cache HF_HOME=/tmp/huggingface HF_HUB_OFFLINE=1 \
    SOFTMUX_BACKBONE=/backbone SOFTMUX_STORE=file:///store SOFTMUX_HOST=0.0.0.0 SOFTMUX_PORT=8000
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
VOLUME /store
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD ["python", "-I", "/opt/softmux/livez.py"]
# Without keys whoever reaches the port is admin, so `--allow-anonymous` has to be said by whoever runs this.
ENTRYPOINT ["softmux"]
CMD ["serve"]
