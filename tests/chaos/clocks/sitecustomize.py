"""
A wall clock that is wrong by `CLOCK_OFFSET` seconds, for the whole process and its children.

Python imports this before anything else where the folder is on PYTHONPATH. The monotonic clock stays right, as it does
on a machine whose clock is wrong.
"""

from __future__ import annotations

import datetime as dt
import os
import time

OFFSET = float(os.environ.get("CLOCK_OFFSET", "0"))
_time, _time_ns = time.time, time.time_ns
_datetime = dt.datetime


class _Meta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)  # one made by a C extension is one of these too


class _Shifted(_datetime, metaclass=_Meta):
    """What C gives is the machine's clock, whatever `time.time` says."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> _Shifted:
        return super().now(tz) + dt.timedelta(seconds=OFFSET)

    @classmethod
    def utcnow(cls) -> _Shifted:
        return cls.now(dt.UTC).replace(tzinfo=None)


if OFFSET:
    time.time = lambda: _time() + OFFSET
    time.time_ns = lambda: _time_ns() + int(OFFSET * 1e9)
    vars(dt)["datetime"] = _Shifted
