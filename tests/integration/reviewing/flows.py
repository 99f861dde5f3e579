"""A review that is put together after a few seconds, whoever is missing."""

from __future__ import annotations

from orchestrator import Hierarchy, Join
from workers.review.bandit import bandit
from workers.review.complexity import complexity
from workers.review.dead_code import dead_code
from workers.review.licence import licence
from workers.review.plan import plan
from workers.review.report import report
from workers.review.ruff import ruff
from workers.review.secrets import secrets

WITHIN = 8.0  # s; the others need one or two

hasty = Hierarchy(
    "hasty-review",
    boss=plan,
    synthesize=report,
    workers=[ruff, bandit, complexity, dead_code, licence, secrets],
    join=Join(need=1.0, deadline=WITHIN, otherwise="degrade"),
)
