"""A line between a client and a server on this machine, which can be cut in the middle of a transfer."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Line:
    """Passes connections to `address` on to a server's port, until so many bytes have come back; then it is dead.

    A dead line ends the running connections in the middle of what they carry, and resets new ones.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._bytes_left: float = float("inf")
        self._lock = threading.Lock()
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self, *, after: int) -> None:
        """Dies once it has carried so many more bytes to the client."""
        with self._lock:
            self._bytes_left = after

    def mend(self) -> None:
        with self._lock:
            self._bytes_left = float("inf")

    @property
    def is_dead(self) -> bool:
        return self._bytes_left <= 0

    def close(self) -> None:
        """Takes no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def run(self) -> None:
        """Carries connections until it is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_dead:
                reset(client)
                continue
            server = socket.create_connection(("127.0.0.1", self._port))
            for carry, source, target in ((self._up, client, server), (self._down, server, client)):
                threading.Thread(target=carry, args=(source, target), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with server, client, suppress(OSError):
            while (data := server.recv(4096)) and not self.is_dead:
                with self._lock:
                    carried = data[: int(min(self._bytes_left, len(data)))]
                    self._bytes_left -= len(data)
                client.sendall(carried)
            client.shutdown(socket.SHUT_RDWR)  # ends the other thread's wait for it, too


def reset(connection: socket.socket) -> None:
    """Closes a connection without the courtesies: the other side gets `connection reset`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    """A line that works until it is cut."""
    line = Line(port)
    thread = threading.Thread(target=line.run)
    thread.start()
    try:
        yield line
    finally:
        line.close()
        thread.join()
