# Two images: `serve`, the service with the model in it, and `pipeline`, which runs `dvc repro`. `make image` builds both;
# docs/cloud.md says how to run them. A pip.conf that only the build may see comes in as a secret:
# `docker build --secret id=pip.conf,src=pip.conf …`.
#
# A tag can be moved. To pin the bytes, give BASE the digest too: python:3.11-slim-bookworm@sha256:…
ARG BASE=python:3.11-slim-bookworm

# --- what the service is made of, with the pip that installs it: none of that pip goes into the image -----------------
FROM ${BASE} AS parts
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
COPY requirements-serve.txt constraints.txt /
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
    -c /constraints.txt -r /requirements-serve.txt
# A model that is missing, not whole or computes something else than where it was exported makes no image.
WORKDIR /srv
COPY tweets tweets
COPY models models
RUN ["/opt/venv/bin/python", "-c", "from pathlib import Path; from tweets import command; from tweets.model import exported; \
command.run('image', lambda: exported.load(Path('models/onnx'), threads=1))"]

FROM ${BASE} AS serve
# /collected is the one folder to write to, where a volume is mounted there.
RUN useradd --uid 1000 --no-create-home --home-dir /srv tweets && install --directory --owner tweets /collected
WORKDIR /srv
COPY --from=parts /opt/venv /opt/venv
COPY --from=parts /srv/models/onnx model
COPY dvc.lock ./
COPY tweets tweets
COPY serve serve
ARG TWEETS_COMMIT=""
ARG TWEETS_VERSION=""
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TWEETS_MODEL=/srv/model TWEETS_HOST=0.0.0.0 TWEETS_PORT=8000 \
    TWEETS_COMMIT=$TWEETS_COMMIT TWEETS_VERSION=$TWEETS_VERSION
USER 1000
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s CMD ["python", "-m", "serve.health"]
CMD ["python", "-m", "serve"]

# --- the pipeline -----------------------------------------------------------------------------------------------------
FROM ${BASE} AS pipeline
# Git is for a checkout that is mounted: DVC's experiments are Git's. It comes from the base's own release of Debian.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home tweets
WORKDIR /home/tweets
# A name for DVC, also where a user runs it whom this image does not know: the owner of a mounted checkout.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 USER=tweets
# The libraries before the code: they change seldom and take minutes.
COPY requirements.txt constraints.txt ./
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf python3 -m venv /opt/venv \
    && pip install --no-cache-dir --disable-pip-version-check -c constraints.txt -r requirements.txt

COPY --chown=tweets .dvc .dvc
COPY --chown=tweets data data
COPY --chown=tweets stages stages
COPY --chown=tweets tweets tweets
COPY --chown=tweets models/.gitignore models/
COPY --chown=tweets metrics metrics
COPY --chown=tweets plots plots
COPY --chown=tweets .dvcignore dvc.yaml dvc.lock params.yaml ./
# Here is no .git. The cache exists, so that a volume in its place belongs to this user.
RUN chown tweets . models && su tweets -c "mkdir .dvc/cache && dvc config --local core.no_scm true"
# Stages put a new folder in the place of an old one, which the layers of an image (overlayfs) refuse and a volume takes.
# Each container gets a new one. Under a name it would also keep this code, and hide that of a newer image.
VOLUME /home/tweets
USER 1000
CMD ["dvc", "repro"]
