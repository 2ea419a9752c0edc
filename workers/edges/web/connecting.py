"""Reading the operating system's word for why there was no connection, and asking for one."""

import errno
import socket

from workers.core.preflight.observed import ConnectError, TcpResult

_NO_ROUTE = frozenset(
    {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETDOWN, errno.EINVAL}
)
"""This machine has no way to such an address at all, e.g. no IPv6 (EINVAL: a link-local one without its interface)."""

_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EACCES, errno.EPERM, errno.ENOPROTOOPT})


def connect_error(error: OSError) -> ConnectError:
    """Name the reason. What is unheard of counts as a reset."""
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return ConnectError.TIMEOUT
    if isinstance(error, ConnectionRefusedError):
        return ConnectError.REFUSED
    if error.errno in _NO_ROUTE or isinstance(error, socket.gaierror):
        return ConnectError.NO_ROUTE
    return ConnectError.HOST_UNREACHABLE if error.errno in _UNREACHABLE else ConnectError.RESET


def tcp_open(address: str, port: int, *, timeout_seconds: float = 2.5) -> TcpResult:
    """Try a TCP connection and close it again.

    Args:
        address: an IP address.
        port: the port.
        timeout_seconds: how long to wait.

    Returns:
        Whether it was possible.
    """
    try:
        with socket.create_connection((address, port), timeout_seconds):
            return TcpResult(address, port, None)
    except OSError as error:
        return TcpResult(address, port, connect_error(error))
