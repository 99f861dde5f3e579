"""A user's package: agents and flows that know only what `from orchestrator import ...` gives them."""
