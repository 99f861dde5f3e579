"""
A question to a folder of documents: proposer, critic, fact-checker and scribe argue until they agree on an answer.

Importing this package registers the agents and the flow.
"""

from workers.research.demo import DEMO
from workers.research.flow import research

__all__ = ["DEMO", "research"]
