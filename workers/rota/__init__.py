"""
Planning shifts: a board that fill, repair, improve and audit work on in any order, until the rota is valid and good.

Importing this package registers the agents and the flow; the libraries they use are imported when they first work.
"""

from workers.rota.demo import DEMO
from workers.rota.flow import rota

__all__ = ["DEMO", "rota"]
