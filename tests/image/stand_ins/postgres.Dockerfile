# Debian's PostgreSQL 15 behind the settings of docker.io/library/postgres that compose.yaml uses.
ARG BASE
FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15 \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && rm -rf /var/lib/postgresql/* && install -d -o postgres -g postgres /var/lib/postgresql/data
COPY --chmod=755 postgres.sh /entrypoint.sh
ENV PGHOST=/tmp PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER postgres
ENTRYPOINT ["/entrypoint.sh"]
