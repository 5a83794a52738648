# syntax=docker/dockerfile:1
# One image for the API and the worker; which of them it is, the command says. See docs/deployment.md.

FROM python:3.11-slim-bookworm AS base


# What fsq depends on. Changes seldom, and is by far the largest part of the image.
FROM base AS packages
WORKDIR /build
RUN python -m venv /opt/fsq
ENV PATH=/opt/fsq/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
# The package index has the CUDA build of PyTorch, with all of CUDA that it needs: hence the plain base image.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt torch
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; \
        project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extras = project['optional-dependencies']; \
        print(*project['dependencies'], *extras['hub'], *extras['postgres'], sep='\n')" > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt


FROM base AS wheel
WORKDIR /build
COPY . ./
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_CONSTRAINT=constraints.txt pip wheel --no-deps --wheel-dir /wheels .


FROM base
# gcc and libc6-dev: Triton and the CPU kernels compile on the machine that they run on.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev tini \
    && rm -rf /var/lib/apt/lists/*
# The folders exist here so that a new volume takes over their owner.
RUN useradd --uid 10001 --home-dir /var/lib/fsq --shell /usr/sbin/nologin fsq \
    && install -d -o fsq -g fsq -m 0750 /var/lib/fsq /var/lib/fsq/data
COPY --from=packages /opt/fsq /opt/fsq
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/fsq/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

# NVIDIA_DRIVER_CAPABILITIES: `utility` brings nvidia-smi, which finds the devices.
ENV PATH=/opt/fsq/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    FSQ_HOME=/var/lib/fsq \
    XDG_CACHE_HOME=/var/lib/fsq/.cache \
    TRITON_CACHE_DIR=/var/lib/fsq/.cache/triton \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /var/lib/fsq
VOLUME /var/lib/fsq
EXPOSE 8765
# By 0.0.0.0, the address it listens on: the one name that it answers to whatever FSQ_ALLOWED_HOSTS says.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://0.0.0.0:8765/readyz', timeout=4)"]
# tini as PID 1 passes SIGTERM to fsq alone, not to its training process, and reaps what is left over.
ENTRYPOINT ["tini", "--", "fsq"]
CMD ["serve", "--host", "0.0.0.0"]
