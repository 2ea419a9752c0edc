"""Why a certificate that is on the server is not what visitors are shown, by nginx's configuration and what it serves."""

from collections.abc import Collection, Sequence

from contracts.codes import Code
from workers.core.nginx.config import NginxConfig, answering_server

_HTTPS = 443


def why_unserved(
    names: Sequence[str],
    cert_name: str,
    *,
    address: str | None,
    nginx: NginxConfig,
    nginx_running: bool | None,
    loaded: Collection[str],
) -> tuple[Code, str] | None:
    """Tell a reload that did not happen from another server block that answers.

    nginx's master keeps the old configuration where it cannot take over the new one (no file descriptor left, an address
    in use), and `nginx -s reload` ends with 0 all the same (certbot #7422, #7555).

    Args:
        names: the names that are shown something else, in the order in which they are told.
        cert_name: the lineage whose certificate they should be shown.
        address: the server's address that was asked; None where it is not known.
        nginx: the configuration on disk.
        nginx_running: whether nginx runs; None: not known.
        loaded: names for which the server shows the certificate at some address of its own: nginx has taken it over, and
            what visitors see comes from something in front.

    Returns:
        The code and what was found, or None where the configuration explains nothing.
    """
    for name in names:
        block = answering_server(nginx, name, _HTTPS, ssl=True, address=address)
        if block is None:
            continue
        if not block.shows_certificate_of(cert_name):
            found = f"the server block at {block.where} answers for {name} on port {_HTTPS}, with another certificate"
            return Code.NOT_SERVED, f"The certificate is on the server, but {found}."
        if name in loaded:
            continue
        if nginx_running is False:
            return (
                Code.NGINX_RELOAD_FAILED,
                "The certificate is installed, but nginx is not running. Start it.",
            )
        found = f"nginx has it in its configuration for {name} ({block.where}), but has not taken it over"
        return (
            Code.NGINX_RELOAD_FAILED,
            f"The certificate is installed and {found}: its reload failed without a word. Its error log says why.",
        )
    return None
