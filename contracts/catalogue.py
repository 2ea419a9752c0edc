"""The one catalogue of codes: what each means, the fix in the words of whoever mends it, and what follows.

docs/errors.md and the table in README.md are generated from it (`make generate`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from contracts.codes import Code, Mender, Policy


@dataclass(frozen=True, slots=True)
class CodeEntry:
    """One row of the catalogue.

    Attributes:
        code: the code.
        means: what happened, as a sentence that a site owner understands.
        fix: what to do, in the words of whoever mends it.
        mender: who that is.
        policy: what certpilot does by itself.
        spends_ca_limit: whether reaching this failure used one of the CA's limits (an order or a failed validation).
    """

    code: Code
    means: str
    fix: str
    mender: Mender
    policy: Policy
    spends_ca_limit: bool


def _group(
    mender: Mender, policy: Policy, *rows: tuple[Code, str, str], spends: frozenset[Code] = frozenset()
) -> dict[Code, CodeEntry]:
    return {code: CodeEntry(code, means, fix, mender, policy, code in spends) for code, means, fix in rows}


_REJECTIONS = _group(
    Mender.REQUESTER,
    Policy.REJECT,
    (Code.NO_DOMAIN, "The site has no domain.", "Connect a domain to the site, then press Issue SSL."),
    (Code.ALREADY_ACTIVE, "The site already has a valid certificate for these names.", "Nothing to do. It can be renewed once its renewal window opens."),
    (Code.ALREADY_PENDING, "A request for this site is already being worked on.", "Wait for it to finish; the activity feed shows each step."),
    (Code.NOT_ISSUED, "No certificate was ever issued for this site, so there is none to renew.", "Press Issue SSL instead."),
    (Code.INVALID_DOMAIN, "The domain is not a host name that a certificate can be issued for.", "Correct the name: letters, digits and hyphens, with a dot, no address, no port and no path."),
    (Code.WILDCARD_NEEDS_DNS, "Wildcard names cannot be proven over HTTP.", "List each host name instead of the wildcard."),
    (Code.DUPLICATE_ID, "A different request was already sent under the same id.", "Send every new request with a new CloudEvents id."),
    (Code.INVALID_REQUEST, "The request has a field that is missing or wrong.", "Correct the field that the message names and send it under a new id."),
)  # fmt: skip

_SET_ASIDE = _group(
    Mender.OPERATOR,
    Policy.SET_ASIDE,
    (Code.MALFORMED, "The message is not a CloudEvents JSON document.", "Correct the producer; look at the body with `certpilot dlq show`, then discard it."),
    (Code.UNKNOWN_TYPE, "The message has a type that certpilot does not know.", "Correct the type, or upgrade certpilot and replay the letter."),
    (Code.UNSUPPORTED_CONTENT, "The message has a content type or encoding that certpilot does not read.", "Send structured CloudEvents JSON, UTF-8, not compressed."),
    (Code.TOO_LARGE, "The message is larger than 256 KiB.", "Send only the fields of the contract."),
    (Code.CRASHED, "The process that worked on this message died three times in a row.", "Report it with the letter's body and the log; replay it after the mend."),
)  # fmt: skip

_OWNER = _group(
    Mender.OWNER,
    Policy.RECHECK,
    (Code.DNS_NOT_RESOLVING, "The domain's DNS does not resolve.", "Create an A record for the name that points to the server's address. It goes on by itself once DNS answers."),
    (Code.DNS_WRONG_SERVER, "The domain points to another server.", "Change the A (and AAAA) record to the server's address, or remove the record that points elsewhere."),
    (Code.PORT_80_BLOCKED, "Port 80 of the site cannot be reached from the internet.", "Open port 80 for everyone in the server's firewall and the provider's security group, and see that nginx is running."),
    (Code.PORT_443_BLOCKED, "Port 80 redirects to HTTPS, but port 443 does not answer.", "Open port 443, or remove the redirect until the certificate is there."),
    (Code.GEO_BLOCKED, "The site answers only to some parts of the world.", "Let port 80 be reached from every country: the CA checks from several."),
    (Code.CHALLENGE_FAILED, "The site answered the CA's check with something else.", "Let /.well-known/acme-challenge/ be served as plain files, without login, rewrite or application in front."),
    (Code.REDIRECT_LOOP, "The site redirects in a circle.", "Remove the redirect that leads back to itself; look at the web server, the application and a proxy in front."),
    (Code.CAA_FORBIDS, "A CAA record in DNS forbids this CA.", 'Add `0 issue "letsencrypt.org"` to the CAA records of the domain, or remove them.'),
    (Code.CLOUDFLARE_FLEXIBLE_LOOP, "Cloudflare speaks HTTP to the server (Flexible), so the redirect to HTTPS goes in a circle.", "In Cloudflare set SSL/TLS to Full (strict) now that the server has a certificate."),
    (Code.CLOUDFLARE_STRICT_ORIGIN, "Cloudflare is set to Full (strict), but the server has no valid certificate yet (526).", "Set Cloudflare to DNS only or Full until the certificate is there, then to Full (strict)."),
    (Code.CLOUDFLARE_ORIGIN_DOWN, "Cloudflare cannot reach the server (520 to 524).", "Let Cloudflare's addresses through the firewall and see that nginx answers on the port that Cloudflare uses."),
    spends=frozenset({Code.GEO_BLOCKED, Code.CHALLENGE_FAILED, Code.DNS_NOT_RESOLVING, Code.PORT_80_BLOCKED, Code.PORT_443_BLOCKED, Code.REDIRECT_LOOP, Code.CAA_FORBIDS, Code.CLOUDFLARE_STRICT_ORIGIN, Code.CLOUDFLARE_ORIGIN_DOWN}),
)  # fmt: skip

_TIME = {
    **_group(
        Mender.TIME,
        Policy.WAIT_UNTIL,
        (Code.TOO_MANY_REQUESTS, "Too many certificates were requested in a short time.", "Wait: it goes on by itself at the time shown."),
    ),
    **_group(
        Mender.TIME,
        Policy.BACK_OFF,
        (Code.CA_UNAVAILABLE, "The certificate authority is not answering properly at the moment.", "Wait: it is tried again in a few minutes."),
    ),
    **_group(
        Mender.TIME,
        Policy.SNOOZE,
        (Code.SERVER_BUSY, "Another certbot is at work on this server.", "Wait: it goes on when that one has finished."),
    ),
}  # fmt: skip

_SERVER_ADMIN = _group(
    Mender.SERVER_ADMIN,
    Policy.ADMIN,
    (Code.SERVER_UNREACHABLE, "The server does not answer over SSH.", "See that the server runs and lets the worker's address reach its SSH port."),
    (Code.SSH_AUTH_FAILED, "The server refused certpilot's SSH key.", "Put certpilot's public key into the user's authorized_keys."),
    (Code.HOST_KEY_MISMATCH, "The server's host key is unknown or has changed.", "Confirm the new key with the server's owner, then correct hostKey or the known_hosts file."),
    (Code.PERMISSION_DENIED, "The SSH user may not do what is needed: it is neither root nor allowed by sudo.", "Install the sudo rule from deploy/customer-server, or connect as root."),
    (Code.CERTBOT_MISSING, "certbot is not installed on the server.", "Install it: apt-get install certbot python3-certbot-nginx."),
    (Code.CERTBOT_PLUGIN_MISSING, "certbot's nginx plugin is not installed, or not for this certbot.", "Install python3-certbot-nginx from the same source as certbot."),
    (Code.CERTBOT_BROKEN, "certbot on the server crashes before it can work.", "Reinstall certbot from one source only: the distribution's packages or snap, not both and not mixed with pip."),
    (Code.CERTBOT_OUTDATED, "certbot on the server is too old for today's CA.", "Upgrade certbot to the version of a supported distribution."),
    (Code.NGINX_MISSING, "nginx is not installed where certbot looks for it.", "Install nginx, or put it on root's PATH."),
    (Code.NO_MATCHING_VHOST, "No server block of nginx has this name.", "Add the name to the site's server_name and reload nginx."),
    (Code.NGINX_CONFIG_BROKEN, "nginx refuses its own configuration.", "Run `nginx -t` on the server and correct the line that it names."),
    (Code.NGINX_CONFIG_UNREADABLE, "nginx accepts its configuration, but certbot cannot parse it.", "Rewrite the line that certbot names in plainer form; see that the file is UTF-8."),
    (Code.NGINX_RELOAD_FAILED, "nginx could not take over the new configuration.", "Look at nginx's error log; restart nginx from its service manager."),
    (Code.PORT_80_IN_USE, "Another program on the server holds port 80.", "Stop that program or move it; nginx has to listen on port 80."),
    (Code.INSTALL_FAILED, "The certificate was issued but could not be put into nginx's configuration.", "Look at the line that the message names; it is tried again without a new order."),
    (Code.NOT_SERVED, "The certificate is on the server, but visitors are shown another one.", "See which server block answers on port 443 for the name, and reload nginx."),
    (Code.LINEAGE_BROKEN, "certbot's own files for this certificate are damaged.", "Restore /etc/letsencrypt/renewal and live for this name, or delete the lineage with `certbot delete`."),
    (Code.CLOCK_SKEW, "The server's clock is wrong.", "Turn on time synchronisation (timedatectl set-ntp true)."),
    (Code.INTERRUPTED, "certbot was killed or the server rebooted while it ran.", "Nothing, if it was a reboot; it is tried again."),
    (Code.DISK_FULL, "The server's disk is full.", "Free space on the file system that the message names."),
    (Code.FILESYSTEM_UNUSABLE, "A file system on the server is read-only or damaged.", "Look at dmesg, repair it and mount it for writing."),
    (Code.OUT_OF_MEMORY, "The server has too little free memory to run certbot.", "Free memory or add swap."),
    (Code.CA_UNREACHABLE, "The server cannot reach the certificate authority.", "Let the server reach the CA over HTTPS: DNS, firewall, proxy, root certificates."),
    (Code.AUTO_RENEW_MISSING, "Nothing on the server renews its certificates.", "Turn on certbot's timer: systemctl enable --now certbot.timer."),
    (Code.AUTO_RENEW_FAILING, "The server's own renewal fails.", "Look at `systemctl status certbot` and /var/log/letsencrypt on the server."),
)  # fmt: skip

_OPERATOR = _group(
    Mender.OPERATOR,
    Policy.DEAD,
    (Code.ACCOUNT_PAUSED, "The CA has paused this name for our account after many failures.", "Open the link in the message, confirm, then replay the job."),
    (Code.ACCOUNT_INVALID, "The CA does not accept our account.", "Register anew: move the account's folder under /etc/letsencrypt/accounts away, then replay."),
    (Code.ACCOUNT_CONTACT_INVALID, "The CA does not accept the account's e-mail address.", "Correct CERTPILOT_ACME_EMAIL, then replay."),
    (Code.ACCOUNT_EAB_REQUIRED, "The CA wants an external account binding.", "Configure the CA's EAB key, then replay."),
    (Code.INTERNAL, "Something went wrong that certpilot does not understand.", "A bug of ours: look at the log for the job, report it, then replay."),
)  # fmt: skip

_NOBODY = _group(
    Mender.NOBODY,
    Policy.FAIL,
    (Code.REJECTED_BY_CA, "The CA does not issue certificates for this name.", "Use another domain, or another CA."),
)  # fmt: skip

CATALOGUE: Mapping[Code, CodeEntry] = MappingProxyType(
    _REJECTIONS | _SET_ASIDE | _OWNER | _TIME | _SERVER_ADMIN | _OPERATOR | _NOBODY
)
"""Every code's row. A test proves that none is missing."""
