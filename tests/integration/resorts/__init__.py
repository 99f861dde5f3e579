"""A user's package of agents that cannot give their output, and of what takes its place."""
