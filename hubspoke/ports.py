"""Ports of this machine that nobody listens on."""

import errno
import socket
from contextlib import ExitStack


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """Return a port that is free at every address that a host's name stands for.

    A server may listen at those addresses that are free and be silent about the others, as gRPC is: a client that tries
    another one first would send its password to whoever listens there.

    Args:
        host: Name or address.
        port: The port that is wanted; 0 for any.

    Raises:
        OSError: It is taken, or there is no such host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with ExitStack() as held:
        for family, address in sorted({(family, address[0]) for family, _, _, _, address in found}):
            listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:  # a machine without IPv6 may know ::1 by name
                    raise
            else:
                port = listener.getsockname()[1]
    return port
