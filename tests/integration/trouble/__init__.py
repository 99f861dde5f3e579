"""A user's package of agents in trouble: each attempt does what its document says."""
