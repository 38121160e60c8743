# moto's S3 server where versitygw is expected: it takes any keys, and keeps objects in memory.
ARG BASE
FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates netcat-openbsd python3-venv \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/moto && /opt/moto/bin/pip install --no-cache-dir "moto[s3,server]==5.*" \
    && mkdir /app && printf '#!/bin/sh\nexec /opt/moto/bin/moto_server -H 0.0.0.0 -p 7070\n' > /app/versitygw \
    && chmod 755 /app/versitygw
ENV PYTHONDONTWRITEBYTECODE=1
