"""From a server's name to an authenticated transport: dial, exchange keys, check the host key, log in."""

import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import paramiko
import tenacity

from contracts.codes import Code
from workers.core.model import Server
from workers.edges.errors import EdgeError
from workers.edges.server.known_hosts import HostKey, KnownKeys, host_name, known_keys

# Unacknowledged for so long, the kernel gives the connection up; the keepalive sees to it that something is always
# under way. Without the two a half-open connection lives for a quarter of an hour.
_TCP_USER_TIMEOUT_MS = 45_000
_KEEPALIVE_SECONDS = 15
_ATTEMPTS = 3
# paramiko logs each failure with a traceback; here every failure is raised, and logged once by whoever handles it.
_LOG_CHANNEL = "certpilot"
_RSA_ALGORITHMS = (
    "rsa-sha2-512",
    "rsa-sha2-256",
)  # RFC 8332: SHA-1 signatures by the same key are not accepted


class PassingError(EdgeError):
    """May be gone within seconds: worth another try in place."""


def log_in(
    server: Server,
    *,
    key_files: Sequence[Path],
    known_hosts_file: Path | None,
    connect_timeout_seconds: float,
    login_timeout_seconds: float,
) -> paramiko.Transport:
    """Connect and authenticate; what may pass within seconds is tried up to three times.

    Raises:
        EdgeError: SERVER_UNREACHABLE, SSH_AUTH_FAILED or HOST_KEY_MISMATCH.
    """
    keys = _load_keys(key_files)
    known = known_keys(server, known_hosts_file)
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(PassingError),
        wait=tenacity.wait_random(0.3, 1.5),
        # A black hole costs two timeouts, not three.
        stop=tenacity.stop_after_attempt(_ATTEMPTS)
        | tenacity.stop_after_delay(1.5 * connect_timeout_seconds),
        reraise=True,
    )
    return again(_log_in_once, server, keys, known, connect_timeout_seconds, login_timeout_seconds)


def _log_in_once(
    server: Server,
    keys: Sequence[paramiko.PKey],
    known: KnownKeys,
    connect_timeout_seconds: float,
    login_timeout_seconds: float,
) -> paramiko.Transport:
    sock = _dial(server, connect_timeout_seconds)
    try:
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        raise
    try:
        transport.set_log_channel(_LOG_CHANNEL)
        logging.getLogger(transport.get_log_channel()).setLevel(logging.CRITICAL + 1)
        transport.banner_timeout = transport.handshake_timeout = login_timeout_seconds
        transport.auth_timeout = login_timeout_seconds
        _exchange_keys(transport, server, known, login_timeout_seconds)
        _authenticate(transport, server, keys)
        transport.set_keepalive(_KEEPALIVE_SECONDS)
    except BaseException:
        transport.close()
        sock.close()  # the transport closes it only where its thread had started
        raise
    return transport


# --- the wire -------------------------------------------------------------------------------------------------------


def _dial(server: Server, timeout_seconds: float) -> socket.socket:
    where = f"{server.host}:{server.port}"
    try:
        sock = socket.create_connection((server.host, server.port), timeout_seconds)
    except socket.gaierror as error:
        kind = PassingError if error.errno == socket.EAI_AGAIN else EdgeError
        raise kind(Code.SERVER_UNREACHABLE, f"The server's name {server.host} does not resolve.") from None
    except TimeoutError:
        raise PassingError(
            Code.SERVER_UNREACHABLE,
            f"{where} did not answer within {timeout_seconds:g} s (likely a firewall).",
        ) from None
    except ConnectionRefusedError:
        raise PassingError(
            Code.SERVER_UNREACHABLE, f"{where} refused the connection: no SSH server listens there."
        ) from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise PassingError(Code.SERVER_UNREACHABLE, f"{where} cannot be reached: {reason}.") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
    return sock


# --- host key -------------------------------------------------------------------------------------------------------


def _exchange_keys(
    transport: paramiko.Transport, server: Server, known: KnownKeys, timeout_seconds: float
) -> None:
    """Only key types that are known are asked for: a server with several then shows the pinned one."""
    options = transport.get_security_options()
    wanted = [name for key in known.accepted for name in _algorithms(key) if name in options.key_types]
    if wanted:
        options.key_types = tuple(dict.fromkeys(wanted))
    try:
        transport.start_client(timeout=timeout_seconds)
        shown_key = transport.get_remote_server_key()
    except paramiko.ssh_exception.IncompatiblePeer as error:
        if "host key" not in str(error):
            raise EdgeError(
                Code.SERVER_UNREACHABLE, f"{server.host}:{server.port} shares no SSH algorithm with us."
            ) from None
        raise _mismatch(server, known, "shows none of that type") from None
    except (paramiko.SSHException, OSError, EOFError):
        raise PassingError(
            Code.SERVER_UNREACHABLE,
            f"{server.host}:{server.port} accepted the connection, but no SSH key exchange followed. sshd turns away"
            " who connected too often without logging in (PerSourcePenalties, MaxStartups); a firewall may too.",
        ) from None
    shown = HostKey(shown_key.get_name(), shown_key.asbytes())
    if shown not in known.accepted or shown in known.revoked:
        raise _mismatch(server, known, f"shows {shown.fingerprint}", revoked=shown in known.revoked)


def _algorithms(key: HostKey) -> tuple[str, ...]:
    return _RSA_ALGORITHMS if key.type == "ssh-rsa" else (key.type,)


def _mismatch(server: Server, known: KnownKeys, shows: str, *, revoked: bool = False) -> EdgeError:
    host = f"{server.host}:{server.port}"
    if revoked:
        message = f"{host} {shows}, which is revoked by {known.source}."
    elif known.accepted:
        fingerprints = " or ".join(key.fingerprint for key in known.accepted)
        message = f"{host} {shows}; known is {fingerprints} from {known.source}."
    else:
        message = f"{host} {shows}; no host key for {host_name(server)} is known from {known.source}."
    return EdgeError(Code.HOST_KEY_MISMATCH, message)


# --- who we are -----------------------------------------------------------------------------------------------------


def _load_keys(files: Sequence[Path]) -> list[paramiko.PKey]:
    """Read the private keys; a file that cannot be used is named, its content and the library's words never shown."""
    keys = []
    for file in files:
        try:
            keys.append(paramiko.PKey.from_path(file))
        except OSError as error:
            problem = error.strerror or "unreadable"
        except paramiko.PasswordRequiredException:
            problem = "it needs a passphrase"
        except Exception:  # noqa: BLE001 - the parsers below raise ValueError, TypeError, UnsupportedAlgorithm and more
            problem = "it is no private key that SSH can use without a passphrase"
        else:
            continue
        raise EdgeError(Code.SSH_AUTH_FAILED, f"The private key {file} cannot be used: {problem}.")
    if not keys:
        raise EdgeError(Code.SSH_AUTH_FAILED, "No private key is set (CERTPILOT_SSH_PRIVATE_KEY_FILE).")
    return keys


def _authenticate(transport: paramiko.Transport, server: Server, keys: Sequence[paramiko.PKey]) -> None:
    who = f"{server.username}@{server.host}:{server.port}"
    refused = []
    for key in keys:
        try:
            if not transport.auth_publickey(server.username, key):
                return
            raise EdgeError(Code.SSH_AUTH_FAILED, f"{who} asks for more than a key.")
        except paramiko.BadAuthenticationType:
            raise EdgeError(Code.SSH_AUTH_FAILED, f"{who} does not allow login by key.") from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            timed_out = "timeout" in str(error).lower()
            if transport.is_active() and not timed_out:
                refused.append(HostKey(key.get_name(), key.asbytes()).fingerprint)
                continue
            if not refused:
                raise PassingError(
                    Code.SERVER_UNREACHABLE, f"{server.host}:{server.port} went away during the login."
                ) from None
            break  # sshd hangs up after MaxAuthTries
    raise EdgeError(Code.SSH_AUTH_FAILED, f"{who} refused the key {', '.join(refused)}.")
