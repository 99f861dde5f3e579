"""Blackboards as agents use them: conditions on what stands there, and the handle that reads, writes and locks."""
