"""The flow: a boss, six specialists and a synthesiser."""

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

WITHIN = 900.0  # s from the first assignment on, after which the report says what is missing

review = Hierarchy(
    "review",
    boss=plan,
    synthesize=report,
    workers=[ruff, bandit, complexity, dead_code, licence, secrets],
    # All of them; a specialist that fails, or has no worker, leaves a report that says what was not checked.
    join=Join(need=1.0, deadline=WITHIN, otherwise="degrade"),
)
