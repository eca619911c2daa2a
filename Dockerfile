# Targets: serve (Triton on an exported repository), demo (the page), train (everything, for a GPU box).
#   docker build --target serve -t surg-serve .
#   docker build --target serve --build-arg BASE_IMAGE=debian-with-python -t surg-serve-cpu .
# With NVIDIA's image as base, its own tritonserver serves. With any Debian that has python3, venv and libpython3, the server of the
# nvidia-pytriton wheel does. Only the second kind was built and run by our tests: NVIDIA's image was not within their reach.
ARG BASE_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG TRAIN_IMAGE=python:3.11-bookworm

FROM ${BASE_IMAGE} AS server
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY requirements/triton.txt /tmp/triton.txt
RUN mkdir -p /opt/triton \
 && if ! command -v tritonserver; then \
      python3 -m venv /opt/triton \
      && /opt/triton/bin/pip install --no-cache-dir --no-deps -r /tmp/triton.txt; \
    fi

FROM ${BASE_IMAGE} AS serve
ENV ORT_DISABLE_TELEMETRY=1
COPY --from=server /opt/triton /opt/triton
COPY surg/serving/backend /opt/surg/backend
COPY deploy/entrypoint.sh /opt/surg/entrypoint.sh
# A volume mounted here takes over the owner: TensorRT's engines (queue.accelerator=tensorrt) are kept in it.
RUN install -d -o 1000 -g 1000 /cache/trt
# 1000 is NVIDIA's triton-server user; files of the repository need to be readable for it, nothing needs to be writable.
USER 1000:1000
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# Not urllib, which asks the proxy that http_proxy names: Docker hands the proxies of its own settings to every container.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
  CMD ["python3", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/v2/health/ready'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["/opt/surg/entrypoint.sh"]

FROM ${PYTHON_IMAGE} AS demo
WORKDIR /opt/surg
COPY requirements/lock.txt requirements/lock.txt
# The demo is a client: no torch. That is why the package comes without its dependencies.
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir -c requirements/lock.txt \
      gradio "tritonclient[grpc,http]" opencv-python-headless av numpy pydantic omegaconf pyyaml typer rich pyarrow scipy matplotlib jinja2 prometheus-client
COPY pyproject.toml README.md LICENSE ./
COPY surg surg
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps .
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp ORT_DISABLE_TELEMETRY=1 GRADIO_ANALYTICS_ENABLED=False MPLCONFIGDIR=/tmp/matplotlib
USER 1000:1000
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python3", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 7860, timeout=4); c.request('GET', '/'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["surg", "demo"]

FROM ${TRAIN_IMAGE} AS train
WORKDIR /opt/surg
COPY requirements/lock.txt requirements/lock.txt
COPY pyproject.toml README.md LICENSE ./
COPY surg surg
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir -c requirements/lock.txt ".[cpu,hf]"
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp ORT_DISABLE_TELEMETRY=1
# Run folders go to /work; a folder mounted there must be writable for user 1000. Loaders want more shared memory than Docker's 64 MB.
#   docker run --gpus all --shm-size 8g -v $PWD:/work surg-train train pretrain --data clips.parquet --out runs/a
RUN install -d -o 1000 -g 1000 /work
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["surg"]
CMD ["--help"]
