"""Failure as the normal case: one mechanism a module, each useful alone, its state in Redis for the whole fleet."""
