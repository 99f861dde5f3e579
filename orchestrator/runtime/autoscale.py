"""Celery's autoscaler, whose bounds can be changed for good."""

from __future__ import annotations

from celery.worker.autoscale import Autoscaler as CeleryAutoscaler


class Autoscaler(CeleryAutoscaler):
    """Celery's; where the maximum is changed by remote control, what the worker may take at a time changes with it."""

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:  # noqa: A002  Celery's names
        """Change the bounds. Returns both."""
        bounds: tuple[int, int] = super().update(max, min)
        self.worker.max_concurrency, self.worker.min_concurrency = bounds
        self.worker.consumer.initial_prefetch_count = bounds[0] * self.worker.consumer.prefetch_multiplier
        return bounds
