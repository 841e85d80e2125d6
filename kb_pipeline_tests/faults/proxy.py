"""A line between a worker and its server, cut at one COMMIT: before it arrives or before its answer."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_COMMIT = b"COMMIT\0"
"""As the driver sends it: the text of a simple query, which is one packet."""
_BATCHES_BEGIN = b"synchronous_commit"
"""What the session is told just before the first batch, in a transaction of its own."""
_PACKET_BYTES = 1 << 16


class Line:
    """Takes connections on a socket of its own and hands their bytes on.

    The first connection, which is the one that writes, is cut at its n-th COMMIT from the one on that
    says what batches commit without.
    """

    def __init__(self, directory: Path, server_socket: Path, *, commit: int, after: bool) -> None:
        self._server_socket = server_socket
        self._left = commit
        self._after = after
        self._counts = False
        self._ends: list[socket.socket] = []
        self.was_cut = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / server_socket.name))
        self._listener.listen()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server_socket))
                to_server = self._hand_on if self._ends else self._hand_on_until_cut
                self._ends += [client, server]
                for hand_on, source, target in ((to_server, client, server), (self._hand_on, server, client)):
                    threading.Thread(target=hand_on, args=(source, target), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while packet := source.recv(_PACKET_BYTES):
                target.sendall(packet)
            target.shutdown(socket.SHUT_WR)

    def _hand_on_until_cut(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while packet := client.recv(_PACKET_BYTES):
                self._counts = self._counts or _BATCHES_BEGIN in packet
                self._left -= self._counts and _COMMIT in packet
                self.was_cut = self._left == 0
                if self.was_cut:
                    client.shutdown(socket.SHUT_RDWR)  # first, so that no answer reaches it any more
                if self._after or not self.was_cut:
                    server.sendall(packet)
                if self.was_cut:
                    break
            server.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End every connection, as a cable does."""
        for it in (self._listener, *self._ends):
            with suppress(OSError):
                it.shutdown(socket.SHUT_RDWR)
            it.close()


@contextmanager
def line(directory: Path, server_socket: Path, *, commit: int, after: bool) -> Iterator[Line]:
    """Yield a line that is cut at the n-th COMMIT, counted from 1, just before the first batch's."""
    opened = Line(directory, server_socket, commit=commit, after=after)
    try:
        yield opened
    finally:
        opened.close()
