"""Timers that epoll can wait for, exact to the microsecond: Linux's timerfd."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_ABSOLUTE = 1


class _TimerSpec(ctypes.Structure):
    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Timer:
    """A timer on the clock of `time.monotonic_ns`; its file descriptor is readable once it has run out.

    Python has them from 3.13 on, hence the calls to the C library.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._set = library.timerfd_settime
        self._spec = _TimerSpec()
        self._pointer = ctypes.byref(self._spec)
        self.fd: int = library.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self.fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def at(self, when: int) -> None:
        """Run out at ``when`` (nanoseconds); what it said before is forgotten."""
        spec = self._spec
        spec.at_s, spec.at_ns = divmod(max(when, 1), 1_000_000_000)
        spec.every_s = spec.every_ns = 0
        self._set(self.fd, _ABSOLUTE, self._pointer, None)

    def every(self, interval: int) -> None:
        """Run out each ``interval`` nanoseconds, from now on. `clear` after each time."""
        spec = self._spec
        spec.at_s, spec.at_ns = divmod(interval, 1_000_000_000)
        spec.every_s, spec.every_ns = spec.at_s, spec.at_ns
        self._set(self.fd, 0, self._pointer, None)

    def off(self) -> None:
        """Never run out."""
        spec = self._spec
        spec.at_s = spec.at_ns = spec.every_s = spec.every_ns = 0
        self._set(self.fd, 0, self._pointer, None)

    def clear(self) -> None:
        """Take note that it ran out."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        """Free it."""
        os.close(self.fd)
