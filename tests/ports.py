"""Ports of this machine that a test's server may take."""

import contextlib
import random
import socket


def free_port() -> int:
    """One that nothing uses. From 32768 up Linux gives ports to outgoing connections, which might take it first."""
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
