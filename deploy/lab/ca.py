"""The certificate authority of the lab: Pebble behind the limits proxy, a staging door, and the DNS that both ask."""

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from publicsuffixlist import PublicSuffixList

from deploy.lab.acme_http import PlacedHTTPSConnection
from deploy.lab.acme_proxy import AcmeProxy
from deploy.lab.ca_limits import LETS_ENCRYPT_STAGING, NONE, CaLimits, Figure, LimitName, as_setting
from deploy.lab.dns import Dns
from deploy.lab.keys import make_tls_identity
from deploy.lab.machine import LabError, tail
from deploy.lab.network import Network

if TYPE_CHECKING:
    from deploy.lab.cell import Program

DIRECTORY_PORT, STAGING_PORT, PEBBLE_PORT, MANAGEMENT_PORT = 14000, 14001, 14002, 15000
START_DEADLINE_SECONDS = 20
DAY_SECONDS = 86400
_LOOPBACK = "127.0.0.1"  # of the lab's network: nobody but the proxy reaches Pebble itself


class CertificateAuthority:
    """One Pebble, met at two doors: production and staging, each with limits of its own.

    Attributes:
        dns: the names that the CA, the servers and the worker see.
        production: the proxy that certificates come from.
        staging: the proxy for dry runs.
        api_root_file: PEM of the root behind the CA's own HTTPS; servers must trust it.
        roots_file: PEM of the root of the certificates it issues, and of the former.
        limits_file: its rate limits, for CERTPILOT_CA_LIMITS_FILE.
    """

    def __init__(
        self,
        network: Network,
        directory: Path,
        *,
        limits: Mapping[LimitName, Figure] = NONE,
        staging_limits: Mapping[LimitName, Figure] = LETS_ENCRYPT_STAGING,
        validity_seconds: int = 90 * DAY_SECONDS,
    ) -> None:
        """Prepare the authority; nothing runs yet.

        Args:
            network: where it stands.
            directory: an empty folder for its files.
            limits: `ca_limits.LETS_ENCRYPT` for the published ones; none by default.
            staging_limits: those of the staging door.
            validity_seconds: lifetime of its certificates.
        """
        self._network, self._directory, self._validity_seconds = network, directory, validity_seconds
        self._eab_keys: Mapping[str, str] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._identity = make_tls_identity(directory, network.authority)
        self.api_root_file = self._identity[0]
        self.roots_file = directory / "roots.pem"
        self.log = directory / "pebble.log"
        self.dns = Dns(network)
        suffixes = PublicSuffixList()

        def registered_domain(name: str) -> str:
            return suffixes.privatesuffix(name) or name

        self.production = self._door(DIRECTORY_PORT, CaLimits(limits, registered_domain))
        self.staging = self._door(STAGING_PORT, CaLimits(staging_limits, registered_domain))
        self._pebble: Program | None = None
        self.limits_file = directory / "limits.json"
        self.set_limits(limits)

    def set_limits(self, limits: Mapping[LimitName, Figure]) -> None:
        """Put other limits in force, with full buckets; a worker that reads `limits_file` from now on knows them."""
        self.production.limits = CaLimits(limits, self.production.limits.registered_domain)
        self.limits_file.write_text(as_setting(self.directory_url, limits))

    @property
    def directory_url(self) -> str:
        """For CERTPILOT_ACME_DIRECTORY_URL and certbot's --server."""
        return self.production.directory_url

    @property
    def staging_directory_url(self) -> str:
        """For CERTPILOT_ACME_STAGING_DIRECTORY_URL."""
        return self.staging.directory_url

    def start(self) -> None:
        """Start DNS, Pebble and both doors.

        Raises:
            LabError: a part did not start within 20 s; the message ends with its log.
        """
        self.dns.start()
        self._start_pebble()
        self.production.up()
        self.staging.up()

    def restart(
        self, *, validity_seconds: int | None = None, eab_keys: Mapping[str, str] | None = None
    ) -> None:
        """Start Pebble anew: it forgets every account and order, and gets a new root, written to `roots_file`.

        Args:
            validity_seconds: new lifetime of its certificates; unchanged where None.
            eab_keys: HMAC keys (base64url) by key id: new accounts must be bound to one of them. None or empty: none is
                needed.
        """
        self._validity_seconds = validity_seconds or self._validity_seconds
        self._eab_keys = eab_keys or {}
        self._stop_pebble()
        self._start_pebble()

    def stop(self) -> None:
        """Stop all of it."""
        self.production.down()
        self.staging.down()
        self._stop_pebble()
        self.dns.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _door(self, port: int, limits: CaLimits) -> AcmeProxy:
        return AcmeProxy(
            self._network.cell.socket,
            (self._network.authority, port),
            (_LOOPBACK, PEBBLE_PORT),
            self._identity,
            limits,
        )

    def _start_pebble(self) -> None:
        config = self._directory / "pebble.json"
        _, chain, key = self._identity
        settings = {
            "listenAddress": f"{_LOOPBACK}:{PEBBLE_PORT}",
            "managementListenAddress": f"{_LOOPBACK}:{MANAGEMENT_PORT}",
            "certificate": str(chain),
            "privateKey": str(key),
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": bool(self._eab_keys),
            "externalAccountMACKeys": dict(self._eab_keys),
            "retryAfter": {"authz": 1, "order": 1},
            "certificateValidityPeriod": self._validity_seconds,
        }
        config.write_text(json.dumps({"pebble": settings}))
        environment = {
            "PEBBLE_VA_NOSLEEP": "1",
            # certbot tries a rejected nonce once more only: one run in thirty would fail by chance.
            "PEBBLE_WFE_NONCEREJECT": "0",
            # Half of the valid authorizations would be used again by chance, and the validation not happen.
            "PEBBLE_AUTHZREUSE": "0",
        }
        argv = ["pebble", "-config", str(config), "-dnsserver", self.dns.server]
        self._pebble = self._network.cell.spawn(argv, log=self.log, env=environment)
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while True:
            try:
                root = self._management("/roots/0")
                break
            except OSError as refused:
                if not self._pebble.running or time.monotonic() > deadline:
                    raise LabError(f"Pebble did not start: {refused}\n{tail(self.log)}") from refused
                time.sleep(0.02)
        self.roots_file.write_bytes(root + self.api_root_file.read_bytes())

    def _stop_pebble(self) -> None:
        if self._pebble is not None:
            self._pebble.kill()
            self._pebble = None

    def _management(self, path: str) -> bytes:
        """Get something from Pebble's own door for its keeper.

        Raises:
            OSError: it does not answer.
        """
        context = ssl.create_default_context(cafile=str(self.api_root_file))
        connection = PlacedHTTPSConnection(self._network.cell.socket, _LOOPBACK, MANAGEMENT_PORT, context)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        except http.client.HTTPException as broken:
            raise ConnectionError(str(broken)) from broken
        finally:
            connection.close()
