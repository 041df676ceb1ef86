"""What a worker process is told: plain values, pickled once; the tensors' bytes lie in memory that is shared."""

from __future__ import annotations

from typing import NamedTuple

#: Width of a number that is filled in later: decimal digits in JSON, bytes of a varint in protobuf.
JSON_WIDTH, VARINT_WIDTH = 16, 6


class Patch(NamedTuple):
    """A number in a request's head that depends on the slot that sends it: an offset into shared memory."""

    at: int
    """Index of its first byte."""
    base: int
    stride: int
    """The number is ``base + stride * slot``."""


class Template(NamedTuple):
    """A request, serialized as far as it can be before it is sent."""

    model: int
    """Index of its model in the mix."""
    path: str
    """Path of the request: ``/v2/models/...`` over HTTP; unused over gRPC."""
    head: bytes
    """HTTP: the JSON after its opening brace and parameters. gRPC: the message without its raw tensors."""
    parameters: bytes
    """HTTP: members of the request's ``parameters`` object, without braces. gRPC: empty, they are in the head."""
    start: int
    """Where its tensors' bytes begin in the shared memory, and how many there are."""
    length: int
    rows: int
    """Rows of the batch: 1 without batching."""
    patches: tuple[Patch, ...] = ()
    expected: int = -1
    """Index of the expected outputs, -1 for none."""


class ExpectedOutput(NamedTuple):
    """What an output must hold."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class SequencePlan(NamedTuple):
    """How requests make up sequences."""

    first_id: int
    shortest: int
    longest: int
    """Requests in a sequence: drawn uniformly between these two."""
    streams: tuple[tuple[int, ...], ...] = ()
    """Indices of templates: the n-th sequence sends those of the n-th stream, in order, over and over."""


class Endpoint(NamedTuple):
    """Where requests go."""

    family: int
    address: tuple[object, ...]
    """As `socket.connect` takes it."""
    authority: str
    """What the Host or :authority header says."""
    prefix: str
    """Path before /v2."""


class WorkerPlan(NamedTuple):
    """Everything a worker needs before the first load point."""

    protocol: str
    """http or grpc."""
    streaming: bool
    endpoints: tuple[Endpoint, ...]
    templates: tuple[Template, ...]
    order: tuple[int, ...]
    """Indices of templates, sent in this order, over and over."""
    expected: tuple[tuple[ExpectedOutput, ...], ...]
    tolerance: tuple[float, float]
    """Relative and absolute; both 0: bytes must be equal."""
    sequences: SequencePlan | None
    timeout: int
    """Nanoseconds after which a request is given up."""
    connections: int
    """gRPC: connections of this worker to each endpoint."""
    worker: int
    """Number of this worker, from 0."""
    workers: int
    cores: tuple[int, ...] = ()
    """Cores to run on; () leaves that to the system."""


class ClosedLoop(NamedTuple):
    """So many requests in flight, always."""

    concurrency: int


class OpenLoop(NamedTuple):
    """Requests at set times, whatever the server does."""

    kind: str
    """constant, poisson, burst, ramp or trace."""
    rate: float
    """Requests a second of all workers together."""
    seed: int
    limit: int
    """Most requests in flight in this worker; more wait here, and their time runs."""
    burst: int = 1
    """burst: requests that come at once."""
    end_rate: float = 0.0
    """ramp: the rate at the end of ``duration``."""
    duration: float = 0.0
    """ramp: seconds."""
    trace: tuple[int, ...] = ()
    """trace: nanoseconds from the beginning."""


Load = ClosedLoop | OpenLoop
