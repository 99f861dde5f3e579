"""A user's package of agents that wait: what many on one event loop may do to their worker and to each other."""
