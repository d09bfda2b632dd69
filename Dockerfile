# The daemon as an image: `make image`, and "In a container" in docs/operating.rst.
#
# BUILDER must be able to make virtual environments. BASE, what the image stands on, must have the same Python in
# the same place; nothing is run in it, so it needs neither pip nor a shell.
ARG BASE=docker.io/library/python:3.13-slim
ARG BUILDER=${BASE}

FROM ${BUILDER} AS builder

# Where pip finds packages: an index of yours, or none at all and a folder `wheels` beside this file.
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

COPY . /source/
WORKDIR /source
# pip stands in an environment of its own, so that the one that goes into the image is without it. What Twisted and
# Python would write beside the code is written now, as nobody may later; hence the files are older than that.
RUN python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/contentcache \
    && /opt/pip/bin/pip --python /opt/contentcache/bin/python install --no-compile --find-links wheels . \
    && find /opt/contentcache -name '*.py' -exec touch -d @0 {} + \
    && /opt/contentcache/bin/python -m compileall -q -j 0 /opt/contentcache \
    && /opt/contentcache/bin/python -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))' \
    && mkdir -p /made/lib && mkdir -m 0770 /made/lib/contentcache /made/lib/registry


FROM ${BASE}

COPY --from=builder /opt/contentcache/ /opt/contentcache/
# Folders for the store, the account's and group 0's: some platforms choose the account, and leave it that group.
COPY --from=builder --chown=65532:0 /made/lib/ /var/lib/

ENV PATH=/opt/contentcache/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /
USER 65532:65532
VOLUME /var/lib/registry
EXPOSE 443 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["contentcache", "alive"]
ENTRYPOINT ["contentcache"]
CMD ["/etc/contentcache/config.yml"]

ARG BASE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Content Cache" \
      org.opencontainers.image.description="A pull-through cache for container images" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
