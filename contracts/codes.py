"""The words for what went wrong: every code, and the classes a code can belong to.

The rows (meaning, fix, policy) stand in `contracts.catalogue`; here are only the names, which are a contract with
other programs (DESIGN A.5): extend, never rename.
"""

from enum import StrEnum


class Mender(StrEnum):
    """Who has to act before the same request can succeed."""

    REQUESTER = "requester"
    OWNER = "owner"
    TIME = "time"
    SERVER_ADMIN = "server_admin"
    OPERATOR = "operator"
    NOBODY = "nobody"


class Policy(StrEnum):
    """What certpilot does by itself after this code. The schedules are in `workers.core.deciding.retry`."""

    REJECT = "reject"  # one event, no job
    SET_ASIDE = "set_aside"  # dead letter, no job
    RECHECK = "recheck"  # preflight alone at 1, 5, 15, 60 minutes, then hourly; failed after 24 h
    WAIT_UNTIL = "wait_until"  # until the CA's own time
    BACK_OFF = "back_off"  # soon, with jitter; the cause is transient
    SNOOZE = "snooze"  # a minute or two; not an attempt, nothing failed
    ADMIN = "admin"  # 1, 5, 15, 60 minutes, then hourly; dead letter after 24 h
    DEAD = "dead"  # dead letter at once
    FAIL = "fail"  # ends failed at once


class Retry(StrEnum):
    """The same question as one word for programs (`diagnose --json`, DESIGN A.7). Belongs to a finding, not to a code."""

    OWNER_FIX = "owner_fix"
    WAIT_UNTIL = "wait_until"
    SOON = "soon"
    NEVER = "never"
    SERVER_ADMIN = "server_admin"


class Code(StrEnum):
    """Every failure anywhere in the program ends in one of these."""

    # Rejections: one event, no job.
    NO_DOMAIN = "NO_DOMAIN"
    ALREADY_ACTIVE = "ALREADY_ACTIVE"
    ALREADY_PENDING = "ALREADY_PENDING"
    NOT_ISSUED = "NOT_ISSUED"
    INVALID_DOMAIN = "INVALID_DOMAIN"
    WILDCARD_NEEDS_DNS = "WILDCARD_NEEDS_DNS"
    DUPLICATE_ID = "DUPLICATE_ID"
    INVALID_REQUEST = "INVALID_REQUEST"
    # Set aside: dead letter.
    MALFORMED = "MALFORMED"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    UNSUPPORTED_CONTENT = "UNSUPPORTED_CONTENT"
    TOO_LARGE = "TOO_LARGE"
    CRASHED = "CRASHED"
    # The owner mends.
    DNS_NOT_RESOLVING = "DNS_NOT_RESOLVING"
    DNS_WRONG_SERVER = "DNS_WRONG_SERVER"
    PORT_80_BLOCKED = "PORT_80_BLOCKED"
    PORT_443_BLOCKED = "PORT_443_BLOCKED"
    GEO_BLOCKED = "GEO_BLOCKED"
    CHALLENGE_FAILED = "CHALLENGE_FAILED"
    REDIRECT_LOOP = "REDIRECT_LOOP"
    CAA_FORBIDS = "CAA_FORBIDS"
    CLOUDFLARE_FLEXIBLE_LOOP = "CLOUDFLARE_FLEXIBLE_LOOP"
    CLOUDFLARE_STRICT_ORIGIN = "CLOUDFLARE_STRICT_ORIGIN"
    CLOUDFLARE_ORIGIN_DOWN = "CLOUDFLARE_ORIGIN_DOWN"
    # Time mends.
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    CA_UNAVAILABLE = "CA_UNAVAILABLE"
    SERVER_BUSY = "SERVER_BUSY"
    # The server's admin mends.
    SERVER_UNREACHABLE = "SERVER_UNREACHABLE"
    SSH_AUTH_FAILED = "SSH_AUTH_FAILED"
    HOST_KEY_MISMATCH = "HOST_KEY_MISMATCH"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    CERTBOT_MISSING = "CERTBOT_MISSING"
    CERTBOT_PLUGIN_MISSING = "CERTBOT_PLUGIN_MISSING"
    CERTBOT_BROKEN = "CERTBOT_BROKEN"
    CERTBOT_OUTDATED = "CERTBOT_OUTDATED"
    NGINX_MISSING = "NGINX_MISSING"
    NO_MATCHING_VHOST = "NO_MATCHING_VHOST"
    NGINX_CONFIG_BROKEN = "NGINX_CONFIG_BROKEN"
    NGINX_CONFIG_UNREADABLE = "NGINX_CONFIG_UNREADABLE"
    NGINX_RELOAD_FAILED = "NGINX_RELOAD_FAILED"
    PORT_80_IN_USE = "PORT_80_IN_USE"
    INSTALL_FAILED = "INSTALL_FAILED"
    NOT_SERVED = "NOT_SERVED"
    LINEAGE_BROKEN = "LINEAGE_BROKEN"
    CLOCK_SKEW = "CLOCK_SKEW"
    INTERRUPTED = "INTERRUPTED"
    DISK_FULL = "DISK_FULL"
    FILESYSTEM_UNUSABLE = "FILESYSTEM_UNUSABLE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    CA_UNREACHABLE = "CA_UNREACHABLE"
    AUTO_RENEW_MISSING = "AUTO_RENEW_MISSING"
    AUTO_RENEW_FAILING = "AUTO_RENEW_FAILING"
    # The operator mends.
    ACCOUNT_PAUSED = "ACCOUNT_PAUSED"
    ACCOUNT_INVALID = "ACCOUNT_INVALID"
    ACCOUNT_CONTACT_INVALID = "ACCOUNT_CONTACT_INVALID"
    ACCOUNT_EAB_REQUIRED = "ACCOUNT_EAB_REQUIRED"
    INTERNAL = "INTERNAL"
    # Nobody can.
    REJECTED_BY_CA = "REJECTED_BY_CA"
