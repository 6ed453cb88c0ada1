# An image with everything installed, on the CPU build of torch; docs/installation.md says how to use it.
FROM debian:bookworm-slim

RUN apt-get update && \
    apt-get install -y --no-install-recommends \
      ca-certificates git make g++ python3 python3-venv python3-dev && \
    rm -rf /var/lib/apt/lists/*

# Where pip finds torch beside the Python index; empty: the build with CUDA.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

WORKDIR /opt/scomoe
COPY . .
RUN make install && rm -rf ~/.cache

ENV PATH=/opt/scomoe/.venv/bin:$PATH
CMD ["scomoe-train", "--help"]
