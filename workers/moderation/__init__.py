"""
Moderation of documents: ingest → redact → classify → (unsure: a person) → summarise → publish.

Importing this package registers the agents and the flow; the libraries they use are imported when they first work.
"""

from workers.moderation.demo import DEMO
from workers.moderation.flow import moderation

__all__ = ["DEMO", "moderation"]
