"""The loop of a worker: one thread, one epoll, requests begun when they are due and timed when they end.

A `Slot` carries one request at a time: an HTTP connection, a gRPC stream, or a place on a gRPC connection. A closed
loop has as many slots as requests in flight; an open loop takes an idle slot, or makes one, for each arrival.
"""

from __future__ import annotations

import itertools
import random
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from tritonrepo_client.perf._plan import ClosedLoop, Load, OpenLoop, SequencePlan, WorkerPlan
from tritonrepo_client.perf._records import (
    ENDPOINT_SHIFT,
    HELD_BIT,
    LOST,
    REFUSED,
    TIMEOUT,
    UNFINISHED,
    Records,
)
from tritonrepo_client.perf._timer import Timer
from tritonrepo_client.perf.arrivals import arrivals

_FOREVER = 1 << 62
clock = time.monotonic_ns


class Request(Protocol):
    """A request, ready to be sent any number of times."""

    bits: int
    """Its model, as `Records.meta` has it."""


class Closable(Protocol):
    """Something to be closed at the end."""

    def close(self) -> None:
        """Close it."""


class Slot:
    """Carries one request at a time. Subclasses send and receive it."""

    __slots__ = (
        "bits", "busy", "engine", "first", "held", "intended", "last", "left", "number", "place", "requests",
        "responses", "sent", "sequence", "stream",
    )  # fmt: skip

    def __init__(self, engine: Engine, number: int, endpoint: int, requests: Sequence[Request]) -> None:
        self.engine, self.number, self.requests = engine, number, requests
        self.bits = endpoint << ENDPOINT_SHIFT
        self.busy = self.held = False
        self.intended = self.sent = self.first = self.last = 0
        self.responses = 0
        self.sequence = self.left = self.place = 0
        self.stream: Sequence[int] = ()

    def begin(self, request: Request) -> None:
        """Send the request; `Engine.finish` is called when it ends. Sets ``sent``."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Forget the request under way, and let the server know."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what it holds."""


class Engine:
    """Begins requests as a load wants it, and records how they end.

    Args:
        plan: what to send.
    """

    def __init__(self, plan: WorkerPlan) -> None:
        self.plan = plan
        self.records = Records()
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.timer, self.ticker = Timer(), Timer()
        self.watch(self.timer.fd, self._on_timer)
        self.watch(self.ticker.fd, self._on_ticker)
        self.on_tick: Callable[[], None] = lambda: None
        self.new_slot: Callable[[int], Slot] = _no_slot
        self.slots: list[Slot] = []
        self.idle: list[Slot] = []
        self.parked: list[Slot] = []
        self.backlog: deque[int] = deque()
        self.connections: list[Closable] = []
        """Connections that slots share."""
        self.dirty: list[Callable[[], None]] = []
        """What has something to send once the replies at hand have been read."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.sending = False
        self.ending = False
        """Sequences that are open are being ended; nothing is recorded."""
        self.running = True
        self.limit = 0
        self._closed = True
        self._due = _FOREVER
        self._arrivals: Iterator[int] = iter(())
        self._base = 0
        self._pick: Callable[[], int] = lambda: 0
        self._sequences = 0
        self._random = random.Random(plan.worker)  # noqa: S311  lengths of sequences are no secrets
        self.rebind()

    def rebind(self) -> None:
        """After `Records.take` the arrays are new ones."""
        records = self.records
        self._add_intended, self._add_sent = records.intended.append, records.sent.append
        self._add_ended, self._add_meta = records.ended.append, records.meta.append

    def watch(self, fd: int, handler: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call ``handler(events)`` when the descriptor is ready."""
        self.handlers[fd] = handler
        self.epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Undo `watch`; before the descriptor is closed."""
        if self.handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def start(self, load: Load, when: int) -> None:
        """Begin with a load; arrivals of an open loop count from ``when`` (ns)."""
        self.sending, self.ending = True, False
        self._pick = itertools.cycle(self.plan.order).__next__
        self.most_in_flight = 0
        self._closed = isinstance(load, ClosedLoop)
        if isinstance(load, ClosedLoop):
            self.limit = load.concurrency
            self.trim(load.concurrency)
            self.parked.clear()
            self.idle.clear()
            while len(self.slots) < load.concurrency:
                self._add_slot()
            for slot in list(self.slots):
                self._launch(slot, clock())
            self._flush()
        else:
            self._open(load, when)

    def _open(self, load: OpenLoop, when: int) -> None:
        self.limit = load.limit
        self.trim(load.limit)
        self.parked.clear()
        self.idle[:] = [slot for slot in self.slots if not slot.busy]
        self._base = when
        self._arrivals = arrivals(load, self.plan.worker, self.plan.workers)
        self._next_arrival()
        self.timer.at(self._due)

    def stop(self) -> None:
        """Begin nothing new. What waits in the client is recorded as unfinished."""
        self.sending = False
        self._due = _FOREVER
        self.timer.off()
        now = clock()
        unfinished = UNFINISHED | HELD_BIT
        while self.backlog:
            self._add_intended(self.backlog.popleft())
            self._add_sent(now)
            self._add_ended(now)
            self._add_meta(unfinished)
            self._more(None)

    def end_sequences(self) -> None:
        """Send the last request of each open sequence, so that none stays open on the server."""
        if self.plan.sequences is not None:
            self.ending = True
            for slot in self.slots:
                if slot.left > 0 and not slot.busy:
                    slot.left = 1
                    slot.intended = clock()
                    self._begin(slot)
            self._flush()

    def abandon(self) -> None:
        """Give up all that is in flight, and record it as unfinished."""
        for slot in self.slots:
            if slot.busy:
                slot.give_up()
                self.finish(slot, UNFINISHED, clock())
        self._flush()

    def run(self) -> None:
        """Handle events until `running` is False."""
        poll, handlers = self.epoll.poll, self.handlers
        while self.running:
            for fd, event in poll():
                handler = handlers.get(fd)
                if handler is not None:
                    handler(event)
                if self._due <= clock():
                    self._arrive()
            if self.dirty:
                self._flush()

    def close(self) -> None:
        """Close all connections; the engine is of no more use."""
        self.trim(0)
        for connection in list(self.connections):
            connection.close()
        self.epoll.close()
        self.timer.close()
        self.ticker.close()

    def finish(self, slot: Slot, code: int, now: int) -> None:
        """A request has ended: record it, and begin what comes next.

        Args:
            slot: the slot that carried it.
            code: how it ended.
            now: when, in ns.
        """
        slot.busy = False
        self.in_flight -= 1
        if not self.ending:
            self._add_intended(slot.intended)
            self._add_sent(slot.sent)
            self._add_ended(now)
            self._add_meta(code | slot.bits | HELD_BIT if slot.held else code | slot.bits)
            if self.plan.streaming:
                self._more(slot)
        if code and slot.left:
            slot.left = 0  # the server may have forgotten the sequence
        if not self.sending:
            self.idle.append(slot)
        elif self._closed:
            if REFUSED <= code <= LOST:
                self.parked.append(slot)
            else:
                self._launch(slot, now)
        elif self.backlog:
            slot.held = True
            self._launch(slot, self.backlog.popleft())
        else:
            self.idle.append(slot)

    def oldest(self) -> int:
        """When the oldest request that has not ended was due."""
        if self._closed:
            return clock()
        oldest = min((slot.intended for slot in self.slots if slot.busy), default=self._due)
        return min(oldest, self.backlog[0] if self.backlog else oldest, clock())

    def expire(self, now: int) -> None:
        """End requests that have taken too long."""
        latest = now - self.plan.timeout
        for slot in self.slots:
            if slot.busy and slot.sent < latest:
                slot.give_up()
                self.finish(slot, TIMEOUT, now)

    def _more(self, slot: Slot | None) -> None:
        """What is recorded of streams besides."""
        if self.plan.streaming:
            self.records.first.append(slot.first if slot else 0)
            self.records.responses.append(slot.responses if slot else 0)

    def _launch(self, slot: Slot, intended: int) -> None:
        slot.intended = intended
        slot.busy = True
        self.in_flight += 1
        if self.plan.sequences is not None:
            self._in_sequence(slot, self.plan.sequences)
            return
        request = slot.requests[self._pick()]
        slot.begin(request)

    def _begin(self, slot: Slot) -> None:
        slot.busy = True
        self.in_flight += 1
        assert self.plan.sequences is not None  # noqa: S101  only sequences are ended
        self._in_sequence(slot, self.plan.sequences)

    def _in_sequence(self, slot: Slot, plan: SequencePlan) -> None:
        if slot.left <= 0:
            number = self._sequences * self.plan.workers + self.plan.worker
            self._sequences += 1
            slot.sequence = plan.first_id + number
            slot.left = self._random.randint(plan.shortest, plan.longest)
            slot.stream = plan.streams[number % len(plan.streams)]
            slot.place = 0
        request = slot.requests[slot.stream[slot.place % len(slot.stream)]]
        slot.place += 1
        slot.left -= 1
        slot.begin(request)

    def _on_timer(self, _event: int) -> None:
        self._arrive()
        self.timer.at(self._due)

    def _arrive(self) -> None:
        """Begin all that is due."""
        now = clock()
        while self._due <= now:
            if self.idle:
                slot = self.idle.pop()
                slot.held = False
                self._launch(slot, self._due)
            elif len(self.slots) < self.limit:
                self._launch(self._add_slot(), self._due)
            else:
                self.backlog.append(self._due)
            self._next_arrival()
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.dirty:
            self._flush()

    def _next_arrival(self) -> None:
        following = next(self._arrivals, None)
        self._due = _FOREVER if following is None else self._base + following

    def _on_ticker(self, _event: int) -> None:
        self.ticker.clear()
        self.expire(clock())
        if self.sending and self.parked:
            parked, self.parked = self.parked, []
            for slot in parked:
                self._launch(slot, clock())
        self.on_tick()

    def _flush(self) -> None:
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for send in dirty:
                send()

    def _add_slot(self) -> Slot:
        slot = self.new_slot(len(self.slots))
        self.slots.append(slot)
        return slot

    def trim(self, count: int) -> None:
        """Close slots beyond that number; nothing is in flight."""
        for slot in self.slots[count:]:
            slot.close()
        del self.slots[count:]


def _no_slot(number: int) -> Slot:
    raise NotImplementedError(number)
