# The image of every service of docker-compose.yml: the package, the reference flows and their settings.
FROM python:3.13-slim-trixie

ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What `-P custom` is.
ENV CELERY_CUSTOM_WORKER_POOL=orchestrator.runtime.pool:AsyncioPool
WORKDIR /app

# The versions that were tested; a constraints file takes no hashes.
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY orchestrator orchestrator
RUN python3 -m venv /venv \
 && sed -n 's/^\([a-z0-9][^ ]*==[^ ]*\).*/\1/p' requirements.lock > constraints.txt \
 && pip install --constraint constraints.txt ".[moderation,review,rota,research]"

COPY workers workers
COPY config config

# A volume that is first mounted on /reports takes its owner over.
RUN useradd --system --uid 10001 celeriac && install -d -o celeriac /reports
USER celeriac
CMD ["celery", "-A", "orchestrator.app", "worker", "--without-gossip", "--without-mingle"]
