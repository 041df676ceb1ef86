"""Small servers whose every byte is chosen by a test: HTTP/1.1 by hand, HTTP/2 with python-hyper's h2."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from tritonrepo_client.perf import _records as records
from tritonrepo_client.perf._engine import Engine
from tritonrepo_client.perf._grpc import grpc_slots
from tritonrepo_client.perf._http1 import http_slots
from tritonrepo_client.perf._plan import ClosedLoop, Endpoint, ExpectedOutput, Load, OpenLoop, Template, WorkerPlan
from tritonrepo_client.perf._replies import Checker

BODY = b"\0\0\0\x07\x0a\x05model"  # a gRPC message needs no more to be one


def plan_for(
    protocol: str,
    port: int,
    *,
    size: int = 100,
    count: int = 1,
    timeout: float = 20.0,
    connections: int = 1,
    streaming: bool = False,
    expected: Sequence[ExpectedOutput] = (),
) -> tuple[WorkerPlan, bytes]:
    """A plan for ``count`` different requests of one tensor of ``size`` bytes, and the tensors' bytes."""
    memory = b"".join(bytes([65 + number]) * size for number in range(count))
    described = {"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [described]}, separators=(",", ":"))[1:]
    head = text.encode() if protocol == "http" else b"\x0a\x05model"
    templates = tuple(
        Template(0, "/v2/models/model/infer", head, b"", number * size, size, 1, (), 0 if expected else -1)
        for number in range(count)
    )
    endpoint = Endpoint(socket.AF_INET, ("127.0.0.1", port), f"127.0.0.1:{port}", "")
    plan = WorkerPlan(
        protocol, streaming, (endpoint,), templates, tuple(range(count)), (tuple(expected),), (0.0, 0.0), None,
        round(timeout * 1e9), connections, 0, 1,
    )  # fmt: skip
    return plan, memory


def drive(plan: WorkerPlan, memory: bytes, load: Load, *, requests: int, seconds: float = 20.0) -> dict[str, int]:
    """Run an engine until that many requests have ended; how many of each kind."""
    return driven(plan, memory, load, requests=requests, seconds=seconds)[0]


def driven(
    plan: WorkerPlan, memory: bytes, load: Load, *, requests: int, seconds: float = 20.0
) -> tuple[dict[str, int], Engine]:
    """The same, and the engine."""
    engine = Engine(plan)
    checkers = [
        Checker(plan.expected[template.expected], plan.tolerance) if template.expected >= 0 else None
        for template in plan.templates
    ]
    engine.new_slot = (http_slots if plan.protocol == "http" else grpc_slots)(engine, memoryview(memory), checkers)
    deadline = time.monotonic() + seconds

    def tick() -> None:
        done = len(engine.records.ended) >= requests
        if engine.sending and (done or time.monotonic() > deadline):
            engine.stop()
        elif not engine.sending and (not engine.in_flight or time.monotonic() > deadline + 2):
            engine.running = False

    engine.on_tick = tick
    engine.ticker.every(10_000_000)
    engine.start(load, time.monotonic_ns() + 10_000_000)
    engine.run()
    engine.close()
    names = {code: name for name, code in engine.records.kinds.items()}
    kinds: dict[str, int] = {}
    for meta in engine.records.meta:
        kind = names[meta & records.KIND_MASK]
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds, engine


CLOSED, OPEN = ClosedLoop(4), OpenLoop("poisson", 200.0, 1, 64)


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A listening socket whose connections are handled by threads; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.settimeout(0.1)
    stop = threading.Event()
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def one(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            handle(sock)

    def accept() -> None:
        while not stop.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                continue
            sock.settimeout(20)
            open_sockets.append(sock)
            threads.append(threading.Thread(target=one, args=(sock,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        for sock in open_sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        acceptor.join(5)
        for thread in threads:
            thread.join(5)
        listener.close()


def read_request(sock: socket.socket, received: bytearray) -> tuple[dict[str, str], bytes] | None:
    """The next HTTP/1.1 request: headers and body; None at the end."""
    while (end := received.find(b"\r\n\r\n")) < 0:
        more = sock.recv(65536)
        if not more:
            return None
        received += more
    lines = received[:end].decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    size = int(headers["content-length"])
    while len(received) < end + 4 + size:
        received += sock.recv(65536)
    body = bytes(received[end + 4 : end + 4 + size])
    del received[: end + 4 + size]
    return headers, body


def http_server(answer: Callable[[int, bytes], Sequence[bytes]]) -> Callable[[socket.socket], None]:
    """Answers the n-th request of a connection with pieces, sent one after the other; a piece b"" closes it."""

    def handle(sock: socket.socket) -> None:
        received, number = bytearray(), 0
        while (request := read_request(sock, received)) is not None:
            for piece in answer(number, request[1]):
                if not piece:
                    return
                sock.sendall(piece)
                time.sleep(0.001)
            number += 1

    return handle


def http_reply(text: Any, binary: bytes = b"", *, status: int = 200, more: str = "") -> bytes:
    """A reply as Triton writes it."""
    body = json.dumps(text).encode()
    split = f"Inference-Header-Content-Length: {len(body)}\r\n" if binary else ""
    head = f"HTTP/1.1 {status} Reason\r\n{more}{split}Content-Length: {len(body) + len(binary)}\r\n\r\n"
    return head.encode() + body + binary


Answer = Callable[["H2Peer", int, bytes], None]


class H2Peer:
    """The server's side of one HTTP/2 connection."""

    def __init__(self, sock: socket.socket, window: int, streams: int | None) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        if streams is not None:
            settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = streams
        self.connection.local_settings = h2.settings.Settings(client=False, initial_values=settings)
        self.connection.initiate_connection()
        self.headers: dict[int, dict[str, str]] = {}
        self.most_streams = 0
        self.flush()

    def flush(self) -> None:
        """Send what h2 wants to send."""
        self.sock.sendall(self.connection.data_to_send())

    def reply(self, stream: int, message: bytes = BODY, *, status: int = 0, words: str = "") -> None:
        """Answer a call as gRPC servers do; a failed one with trailers alone."""
        if status:
            headers = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", str(status))]
            self.connection.send_headers(stream, [*headers, ("grpc-message", words)], end_stream=True)
        else:
            self.connection.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
            for at in range(0, len(message), 16000):
                self.connection.send_data(stream, message[at : at + 16000])
            self.connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        self.flush()


def h2_server(
    answer: Answer, *, window: int = 65535, streams: int | None = None, peers: list[H2Peer] | None = None
) -> Callable[[socket.socket], None]:
    """Calls ``answer(peer, stream, body)`` with each complete call; windows are opened as bytes arrive."""

    def handle(sock: socket.socket) -> None:
        peer = H2Peer(sock, window, streams)
        if peers is not None:
            peers.append(peer)
        bodies: dict[int, bytes] = {}
        while data := sock.recv(65536):
            for event in peer.connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    bodies[event.stream_id] = b""
                    peer.headers[event.stream_id] = {
                        (k.decode() if isinstance(k, bytes) else k): (v.decode() if isinstance(v, bytes) else v)
                        for k, v in event.headers
                    }
                    peer.most_streams = max(peer.most_streams, len(bodies))
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    if event.flow_controlled_length:
                        peer.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    answer(peer, event.stream_id, bodies.pop(event.stream_id))
            peer.flush()

    return handle
