"""The address that a server listens on; importing this module is fast."""

import socket

from foveate.core.errors import OptionError, message_of

LOOPBACK = "127.0.0.1"


def check_port(port: int) -> None:
    """Checks the port of a server; 0 means any free one.

    Raises:
        OptionError: There is no such port.
    """
    if not 0 <= port <= 65535:
        raise OptionError(f"port {port}: expected 0 (any free port) to 65535")


def bound(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to an address, and does not listen yet.

    So an address in use is found before a model is loaded, and no client can connect until the model is loaded.

    Raises:
        OptionError: The address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise OptionError(f"host {host!r}, port {port} cannot be used ({message_of(error)}): choose another") from error
    return found


def url_of(bound_socket: socket.socket) -> str:
    """Returns the base URL for clients of the API on this address."""
    host, port = bound_socket.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
