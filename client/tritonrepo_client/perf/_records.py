"""What is kept of each request, in a worker: numbers in arrays, sent to the parent ten times a second."""

from __future__ import annotations

from array import array

OK = 0
#: Codes that mean something to the engine; the others are numbered as they come up.
KINDS = ("ok", "wrong reply", "timeout", "connection refused", "connection lost", "unfinished")
WRONG, TIMEOUT, REFUSED, LOST, UNFINISHED = 1, 2, 3, 4, 5

#: Bits of ``meta``: the kind, the model, the endpoint, and whether the request had to wait for its turn in the client
#: because as many as allowed were in flight.
MODEL_SHIFT, ENDPOINT_SHIFT, HELD_BIT = 12, 20, 1 << 28
KIND_MASK, INDEX_MASK = 0xFFF, 0xFF


class Records:
    """Requests that have ended since the last `take`."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {name: code for code, name in enumerate(KINDS)}
        self.samples: dict[int, str] = {}
        self._new_kinds = False
        self.clear()

    def clear(self) -> None:
        """Forget them."""
        self.intended, self.sent, self.ended = array("q"), array("q"), array("q")
        self.meta = array("I")
        self.first, self.responses, self.gaps = array("q"), array("I"), array("q")

    def code(self, kind: str, words: str = "") -> int:
        """The number of a kind of error; the first words that came with it are kept."""
        code = self.kinds.get(kind)
        if code is None:
            if len(self.kinds) > KIND_MASK:
                kind = "other"
            code = self.kinds.setdefault(kind, len(self.kinds))
        if words and code not in self.samples:
            self.samples[code] = words[:500]
        return code

    def take(self) -> tuple[bytes, ...]:
        """The arrays as bytes, and start anew."""
        arrays = (self.intended, self.sent, self.ended, self.meta, self.first, self.responses, self.gaps)
        self.clear()
        return tuple(each.tobytes() for each in arrays)
