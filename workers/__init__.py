"""Reference agents: an application on `orchestrator`, written as a user's package would be."""
