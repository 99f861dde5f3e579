"""Ports: whether one is free, and whether somebody answers on it."""

from __future__ import annotations

import errno
import socket
from typing import Final

from orchestrator.errors import InvalidSettings

PATIENCE: Final = 0.2  # s for a connection on this machine


def is_free(host: str, port: int) -> bool:
    """
    Whether nobody listens on a port.

    Raises:
        InvalidSettings: this user cannot listen on it for another reason; the message names the setting.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            # As Flower will: a port whose last connections are still closing can be bound.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        msg = f"Flower cannot listen on {host}:{port}: {error.strerror}; correct CELERIAC_FLOWER_HOST or its port"
        raise InvalidSettings(msg) from None
    return True


def answers(host: str, port: int) -> bool:
    """Whether somebody accepts connections on a port."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE):
            return True
    except OSError:
        return False


def any_free(host: str) -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])
