"""A process that locks and writes entries of a board as it is told, line by line, and can be stopped by a signal."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from pydantic import BaseModel, SecretStr

from orchestrator import Blackboard, Client, LastWriter, Settings, Source, Wake, WriteConflict, agent
from orchestrator.errors import LockLost, LockTimeout

ENTRIES = ("a", "b")
TTL = 0.15


class Nothing(BaseModel):
    """What the board is about."""


@agent("state.watch")
def watch(wake: Wake[Nothing]) -> Nothing:
    """Keep the board open: nobody serves its queue."""
    return wake.task


# The last writer wins, so that nothing but a lock can refuse a write.
held = Blackboard(
    "state-held",
    task=Nothing,
    entries=dict.fromkeys(ENTRIES, int),
    sources=[Source(watch, watch="task")],
    conflicts=dict.fromkeys(ENTRIES, LastWriter()),
)


def main() -> None:
    """Do what stands in each line: `run ID`, `lock ENTRY...`, `write ENTRY VALUE` or `release`; say what came of it."""
    url, name = sys.argv[1:]
    client, locks = Client(Settings(redis_url=SecretStr(url), agents=("tests.state.holder",))), ExitStack()
    board = None
    for line in sys.stdin:
        what, *words = line.split()
        said = "done"
        try:
            if what == "run":
                locks.close()
                board = client.get(words[0]).board(by=name)
            elif board is not None and what == "lock":
                locks.enter_context(board.lock(*words, ttl=TTL, wait=0.0))
            elif board is not None and what == "write":
                board.write({words[0]: int(words[1])})
            else:
                locks.close()
        except (LockLost, LockTimeout, WriteConflict) as error:
            said = type(error).__name__
        print(said, flush=True)  # noqa: T201  the answer


if __name__ == "__main__":
    main()
