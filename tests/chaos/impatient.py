"""
A broker that gives what it has delivered to somebody else after `VISIBILITY_TIMEOUT` seconds, looking all the time.

CELERIAC_AGENTS loads this into a worker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery.signals import celeryd_init

if TYPE_CHECKING:
    from celery.app.utils import Settings


def be_impatient(conf: Settings, **_: object) -> None:
    """Set the shortest times that the worker's loop can hold."""
    seconds = float(os.environ["VISIBILITY_TIMEOUT"])
    conf.broker_transport_options = {
        **conf.broker_transport_options,
        "visibility_timeout": seconds,
        "unacked_restore_interval": min(0.5, seconds),
        "unacked_restore_throttle": 1,
    }


celeryd_init.connect(be_impatient, weak=False)
