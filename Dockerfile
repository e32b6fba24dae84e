# softmux in a container: `docker build -t softmux .` for CPUs, or with CUDA:
#   docker build -t softmux:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/softmux
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY prompt_store prompt_store
COPY server server
# torch first and from its own index: the builds there have a suffix (+cpu, +cu130) that the pin allows.
RUN /opt/softmux/bin/pip install --index-url "$TORCH_INDEX" --no-deps "$(grep '^torch==' constraints.txt)" \
 && /opt/softmux/bin/pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt .

FROM python:${PYTHON}-slim
COPY --from=build /opt/softmux /opt/softmux
RUN useradd --create-home --uid 10001 softmux && install -d -o softmux /store
USER softmux
ENV PATH=/opt/softmux/bin:$PATH SOFTMUX_BACKBONE=/backbone SOFTMUX_STORE=file:///store SOFTMUX_HOST=0.0.0.0
VOLUME /store
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
# Without keys whoever reaches the port is admin, so `--allow-anonymous` has to be said by whoever runs this.
ENTRYPOINT ["softmux"]
CMD ["serve"]
