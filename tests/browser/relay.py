"""A way to a server that a test can cut, as a network is: connections end without a word of HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading

from llmapi_kit.server.port import bind


class Relay:
    """Passes bytes between browsers and a server.

    Args:
        url: the server's.

    Attributes:
        url: where it is reached through here.
    """

    def __init__(self, url):
        host, _, port = url.rpartition("//")[2].partition(":")
        self._server = (host, int(port))
        self._listener = bind("127.0.0.1", 0)
        self._listener.listen()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets = set()
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """End all connections, and those to come at once."""
        self._is_cut = True
        for each in list(self._sockets):
            self._end(each)

    def mend(self):
        """Pass on again."""
        self._is_cut = False

    def close(self):
        self.cut()
        self._end(self._listener)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(self._server)
                self._sockets |= {near, far}
                for each in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=each, daemon=True).start()

    def _pass_on(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            self._end(each)
            self._sockets.discard(each)

    def _end(self, sock):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
