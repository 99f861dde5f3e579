"""
Code review of a folder: plan → ruff, bandit, complexity, dead code, licence, secrets → report.

Importing this package registers the agents and the flow; the tools they use are imported when they first work.
"""

from workers.review.demo import DEMO
from workers.review.flow import review

__all__ = ["DEMO", "review"]
