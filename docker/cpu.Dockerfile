# syntax=docker/dockerfile:1
# xconv on NumPy arrays, with the compiled kernels.  From the repository's root:
#   docker build -f docker/cpu.Dockerfile -t xconv .
#   docker run --rm xconv info
ARG BASE=debian:12.12-slim

FROM ${BASE} AS build
# Versions of Debian's packages go with the tag of the base image.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates g++ python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/xconv
WORKDIR /src
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY xconv xconv
# What to install of xconv's extras, and where a smaller build of PyTorch, which the tests and the
# benchmark compare with, is to be found ("" for none).
ARG EXTRAS=test,bench
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV XCONV_REQUIRE_NATIVE=1
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/xconv/bin/pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} ".[${EXTRAS}]"

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="xconv" \
      org.opencontainers.image.description="Convolve batches of signals, images and volumes" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}"
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 xconv
COPY --from=build /opt/xconv /opt/xconv
# The tests run from the sources, on the installed package.
COPY . /opt/xconv/source
COPY --chmod=755 docker/entrypoint /usr/local/bin/entrypoint
ENV PATH=/opt/xconv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 1000
WORKDIR /work
ENTRYPOINT ["entrypoint"]
CMD ["info"]
