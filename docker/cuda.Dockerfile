# syntax=docker/dockerfile:1
# xconv on NumPy and CuPy arrays.  From the repository's root:
#   docker build -f docker/cuda.Dockerfile -t xconv-cuda .
#   docker run --rm --gpus all xconv-cuda info
# For CUDA 13:
#   --build-arg CUDA=13 --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04
ARG BASE=nvidia/cuda:12.9.1-runtime-ubuntu24.04

FROM ${BASE} AS build
# Versions of the distribution's packages go with the tag of the base image.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates g++ python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/xconv
WORKDIR /src
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY xconv xconv
# What to install of xconv's extras beside the one that brings CuPy for this major version of CUDA.
ARG EXTRAS=test,bench
ARG CUDA=12
ENV XCONV_REQUIRE_NATIVE=1
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/xconv/bin/pip install ".[cuda${CUDA},${EXTRAS}]"

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="xconv" \
      org.opencontainers.image.description="Convolve batches of signals, images and volumes" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}"
# The base image of Ubuntu has a user of its own with the number 1000.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1001 xconv
COPY --from=build /opt/xconv /opt/xconv
# The tests run from the sources, on the installed package.
COPY . /opt/xconv/source
COPY --chmod=755 docker/entrypoint /usr/local/bin/entrypoint
ENV PATH=/opt/xconv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1001
WORKDIR /work
ENTRYPOINT ["entrypoint"]
CMD ["info"]
