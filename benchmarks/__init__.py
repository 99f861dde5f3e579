"""Measurements beside plain Celery, in the same run, as ratios: `python -m benchmarks`."""
