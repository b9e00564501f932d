# The gateway in an image of its own. Build with what your bundles need: --build-arg EXTRAS=torch,onnxruntime
#
#   docker build -t snowgate .
#   docker run -p 8080:8080 -v snowgate:/var/lib/snowgate -v ./api-keys:/run/secrets/snowgate-api-keys:ro snowgate
#
# The container listens on every address, and so asks for API keys: one a line in the mounted file.

FROM python:3.11-slim AS build
ARG EXTRAS=""
WORKDIR /source
RUN python -m venv /opt/snowgate
COPY pyproject.toml README.md LICENSE ./
COPY bundles bundles
COPY gateway gateway
COPY monitors monitors
COPY state state
RUN /opt/snowgate/bin/pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/snowgate --create-home snowgate
COPY --from=build /opt/snowgate /opt/snowgate
ENV PATH=/opt/snowgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SNOWGATE_HOME=/var/lib/snowgate \
    SNOWGATE_SERVER__HOST=0.0.0.0 \
    SNOWGATE_SERVER__API_KEYS_FILE=/run/secrets/snowgate-api-keys
USER snowgate
WORKDIR /var/lib/snowgate
VOLUME /var/lib/snowgate
EXPOSE 8080 8082
# SIGTERM drains: what has been taken on is answered before the process ends.
STOPSIGNAL SIGTERM
# Alive, not ready: a gateway that waits for its first deployment is well.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
ENTRYPOINT ["snowgate"]
CMD ["serve"]
