"""
A bad postman: what is published arrives one to three times, before or after what was published earlier, or late.

CELERIAC_AGENTS loads this into a worker; `bad_post` has a producer's messages go the same way. Each copy goes to either
end of its queue, one in three only after up to `LATEST` seconds, and what dies with its process meanwhile is lost.
"""

from __future__ import annotations

import os
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator

COPIES: Final = (1, 2, 3)
LATE: Final = 1 / 3
LATEST: Final = 1.5
SEED: Final = "POST_SEED"

chance = random.Random(f"{os.environ.get(SEED, '')}.{os.getpid()}")


def put(self: kombu_redis.Channel, queue: str, message: dict[str, Any], **_: object) -> None:
    """Deliver a message as a bad postman does, in place of kombu's `Channel._put`."""
    key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
    letter = dumps(message)
    with self.conn_or_acquire() as client:
        for _copy in range(chance.choice(COPIES)):
            push = chance.choice((client.lpush, client.rpush))
            if chance.random() < LATE:
                timer = threading.Timer(chance.uniform(0, LATEST), push, (key, letter))
                timer.daemon = True
                timer.start()
            else:
                push(key, letter)


@contextmanager
def bad_post() -> Iterator[None]:
    """Have what this process publishes go the same way."""
    with patch.object(kombu_redis.Channel, "_put", put):
        yield


if SEED in os.environ:
    patch.object(kombu_redis.Channel, "_put", put).start()
    os.register_at_fork(after_in_child=lambda: chance.seed(f"{os.environ[SEED]}.{os.getpid()}"))
