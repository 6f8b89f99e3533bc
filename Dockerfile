# The pipeline in a container: `make image`, then `docker run --rm -v tweets-cache:/home/tweets/.dvc/cache tweets`.
ARG BASE=python:3.11-slim
FROM ${BASE}

RUN useradd --create-home --uid 1000 tweets

WORKDIR /home/tweets
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

# The libraries before the code: they change seldom and take minutes.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY requirements.txt constraints.txt ./
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --disable-pip-version-check -c constraints.txt -r requirements.txt

COPY --chown=tweets .dvc .dvc
COPY --chown=tweets data/external data/external
COPY --chown=tweets stages stages
COPY --chown=tweets tweets tweets
COPY --chown=tweets .dvcignore dvc.yaml dvc.lock params.yaml ./
# The cache exists, so that a volume in its place belongs to this user.
RUN chown tweets . data && su tweets -c "mkdir -p .dvc/cache && dvc config --local core.no_scm true"

USER 1000
CMD ["dvc", "repro"]
