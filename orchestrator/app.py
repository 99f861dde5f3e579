"""
The Celery app: `celery -A orchestrator.app worker -Q moderation.classify`.

Importing this module imports the agents that the settings name. Redis is looked for when the app's configuration is
first used.
"""

from __future__ import annotations

from orchestrator.agent import load_agents
from orchestrator.broker import celery_config
from orchestrator.runtime.caretaker import CaretakerStep
from orchestrator.runtime.celery_app import App
from orchestrator.runtime.tasks import queues, register_tasks, routes
from orchestrator.settings import Settings, get_settings

__all__ = ["app", "create_app"]


def create_app(settings: Settings) -> App:
    """Return the app that workers and Flower run: every agent's task, its queue, the caretaker."""
    load_agents(settings.agents)
    made = App("celeriac")
    made.add_defaults(lambda: celery_config(settings) | {"task_routes": routes(), "task_queues": queues()})
    made.steps["worker"].add(CaretakerStep)
    register_tasks(made)
    return made


app = create_app(get_settings())
