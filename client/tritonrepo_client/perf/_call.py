"""Single gRPC calls on a blocking socket: for what is asked of the server beside the requests that are measured."""

from __future__ import annotations

import socket
import struct
import time

from tritonrepo_client.perf import _http2 as h2
from tritonrepo_client.perf._replies import grpc_status


class CallError(Exception):
    """The call did not succeed; ``status`` is gRPC's name of the status."""

    def __init__(self, status: str, words: str) -> None:
        super().__init__(f"[{status}] {words}" if words else f"[{status}]")
        self.status, self.words = status, words


class GrpcCalls:
    """Calls to one server, one after the other. Raises OSError where the connection fails."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._host, self._port, self.timeout = host, port, timeout
        self._blocks = h2.Blocks()
        self._socket: socket.socket | None = None
        self._next = 1
        self._consumed = 0

    def call(self, method: str, message: bytes) -> bytes:
        """The reply's message. ``method`` is the last part of the path.

        Raises:
            CallError: the server refused.
            OSError: there is no connection, or no reply in time.
        """
        fresh = self._socket is None
        try:
            return self._try(method, message)
        except (ConnectionError, ValueError) as error:
            self.close()
            if fresh:
                raise error if isinstance(error, ConnectionError) else ConnectionError(str(error)) from None
        return self._try(method, message)  # the server had closed an idle connection

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _try(self, method: str, message: bytes) -> bytes:
        sock = self._socket or self._open()
        deadline = time.monotonic() + self.timeout
        number, self._next = self._next, self._next + 2
        _, block = h2.request_headers(
            f"/inference.GRPCInferenceService/{method}", f"{self._host}:{self._port}", indexed=False
        )
        payload = b"\0" + len(message).to_bytes(4, "big") + message
        if len(payload) > 16384:
            raise ValueError("the message is too large for a call of this kind")
        sock.sendall(
            h2.frame(h2.HEADERS, h2.END_HEADERS, number, block) + h2.frame(h2.DATA, h2.END_STREAM, number, payload)
        )
        body = bytearray()
        try:
            return self._receive(sock, number, body, deadline)
        except OSError:
            self.close()
            raise

    def _open(self) -> socket.socket:
        sock = socket.create_connection((self._host, self._port), self.timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        window = (1 << 31) - 1
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, window)
        update = h2.frame(h2.WINDOW_UPDATE, 0, 0, (window - 65535).to_bytes(4, "big"))
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2.frame(h2.SETTINGS, 0, 0, settings) + update)
        self._socket, self._next, self._consumed = sock, 1, 0
        return sock

    def _receive(self, sock: socket.socket, number: int, body: bytearray, deadline: float) -> bytes:
        while True:
            word, flags, stream = struct.unpack(">IBI", self._exactly(sock, 9, deadline))
            kind, payload = word & 0xFF, self._exactly(sock, word >> 8, deadline)
            if kind == h2.SETTINGS and not flags & h2.ACK:
                sock.sendall(h2.frame(h2.SETTINGS, h2.ACK, 0))
            elif kind == h2.PING and not flags & h2.ACK:
                sock.sendall(h2.frame(h2.PING, h2.ACK, 0, payload))
            elif kind == h2.GOAWAY:
                raise ConnectionError("the server is going away")
            elif stream == number and kind == h2.DATA:
                body += payload
                self._consumed += len(payload)
                if self._consumed > 1 << 30:
                    sock.sendall(h2.frame(h2.WINDOW_UPDATE, 0, 0, self._consumed.to_bytes(4, "big")))
                    self._consumed = 0
            elif stream == number and kind == h2.RST_STREAM:
                raise ConnectionError("the server reset the stream")
            elif stream == number and kind == h2.HEADERS and flags & h2.END_STREAM:
                headers = self._blocks.read(payload)
                if headers.status:
                    raise CallError(grpc_status(headers.status), headers.words)
                return bytes(body[5:])

    @staticmethod
    def _exactly(sock: socket.socket, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no reply in time")
            sock.settimeout(left)
            more = sock.recv(size - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return bytes(data)
