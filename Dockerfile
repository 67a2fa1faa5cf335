# hubprobe for a crawl on NVIDIA GPUs. docs/install.md says how to build and run it.
#
# The base needs no CUDA: torch's wheels bring their own, the driver comes from the host (docker run --gpus all).

FROM python:3.12-slim AS wheel
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir build hatchling \
    && python -m build --wheel --no-isolation --outdir /wheel

FROM python:3.12-slim

# torch by itself, so that a change of hubprobe does not fetch it again. For an older driver:
# --build-arg TORCH_INDEX=<the address that pytorch.org/get-started names for your CUDA>
ARG TORCH_INDEX=
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

ARG EXTRAS=page,plots
COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir "$(echo /wheel/*.whl)[$EXTRAS]" \
    && rm -r /wheel \
    && useradd --create-home --uid 1000 hubprobe \
    && install --directory --owner hubprobe /data

# One volume: the workspace, and what Hugging Face's libraries keep. The other folders are for `docker run --user`.
ENV HUBPROBE_WORKSPACE=/data/index \
    HF_HOME=/data/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1

USER hubprobe
WORKDIR /data
VOLUME /data
EXPOSE 7860
ENTRYPOINT ["hubprobe"]
CMD ["--help"]
