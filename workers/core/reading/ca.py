"""What certificate authorities say, wherever it is printed.

Sources: boulder `ratelimits/limiter.go`, `wfe2/wfe.go`, `wfe2/verify.go`, `policy/pa.go`, `va/*.go`, `bdns/problem.go`,
`ra/ra.go`, `web/probs.go` of 2016 to 2026; pebble `va/va.go`, `wfe/wfe.go`; smallstep `acme/errors.go`; texts of
ZeroSSL (Sectigo), Google Trust Services, SSL.com as users report them. The detail is read before the type: clients
print a refusal by CAA as `connection` or `None`, and a failed look-up as `caa` (FACTS-certbot 4.6).

Rows are tried in this order within one problem; the first that fits decides.
"""

from contracts.codes import Code, Retry
from workers.core.reading.values import Row, Stage, Table, Weight

_S = Stage
_LIMITER = "boulder ratelimits/limiter.go, ra/ra.go; FACTS-certbot 3.2"
_PA = "boulder policy/pa.go, since 2016"

LIMITS = (
    Row(
        ("your account is temporarily prevented from requesting certificates for {hosts} and possibly others",
         "temporarily prevented from requesting certificates"),
        Code.ACCOUNT_PAUSED, _S.ORDER, "boulder wfe2/wfe.go, probs.Paused: type rateLimited, but no time ends it",
        not_that="no limit that ends by itself, although the type is rateLimited",
    ),
    Row(
        ("service busy; retry later", "the service is down for maintenance or had an internal error",
         "the service is temporarily unavailable", "is currently undergoing maintenance"),
        Code.CA_UNAVAILABLE, _S.ORDER, "Let's Encrypt's load balancer: HTTP 503, type rateLimited too (FACTS-certbot 3.2)",
        not_that="no limit of the account, although the type may be rateLimited",
    ),
    Row(
        ("too many certificates already issued for exact set of domains: {hosts}",
         "too many certificates ({n}) already issued for this exact set of domains in the last {n} hours: {hosts}, retry",
         "too many certificates already issued for: {host}",
         'too many certificates already issued for "{host}"',
         'too many certificates ({n}) already issued for "{host}"',
         "too many certificates already issued for multiple names ({host} and"),
        Code.TOO_MANY_REQUESTS, _S.ORDER, _LIMITER,
    ),
    Row(
        ('too many failed authorizations ({n}) for "{host}"', "too many failed authorizations",
         "too many invalid authorizations"),
        Code.TOO_MANY_REQUESTS, _S.ORDER, _LIMITER,
        says="Too many checks of this name failed within the hour.",
    ),
    Row(
        ("too many certificates", "too many new orders", "too many new registrations", "too many registrations for",
         "too many currently pending authorizations", "too many pending authorizations", "too many new accounts",
         "too many requests from this", "rate limit exceeded", "exceeds a rate limit", "request rate limit", "retry after {time}"),
        Code.TOO_MANY_REQUESTS, _S.ORDER, f"{_LIMITER}; smallstep acme/errors.go",
    ),
)  # fmt: skip

OUTDATED = Row(
        ("account creation on acmev1 is disabled", "validations for new domains are disabled in the v1 api",
         "please upgrade your acme client", "does not match current agreement url", "endpoint is no longer supported",
         "upgrade your acme client to support", "using a pre-1.0.2 openssl", "no longer allowed",
         "tls-sni-01 is no longer supported"),
        Code.CERTBOT_OUTDATED, _S.ACCOUNT, "Let's Encrypt, end of ACMEv1 (2019 to 2021) and of TLS-SNI-01 (2018, 2019)",
)  # fmt: skip

ACCOUNTS = (
    OUTDATED,
    Row(
        ("contact email", "invalid contact domain", "unparsable contact", "unparseable contact", "empty contact",
         "not a valid e-mail address", "more than one e-mail address", "only contact scheme 'mailto:' is supported",
         "error validating contact(s)", "email is a required contact", "too many contacts provided",
         "looking up mx for", "validation of contact mailto:", "unable to parse email address", "unable to validate contact",
         "contact method", "validating email domain", "too long contact(s)", "provided contact uri was invalid"),
        Code.ACCOUNT_CONTACT_INVALID, _S.ACCOUNT, "boulder policy/pa.go ValidateEmail, wfe2/wfe.go contactsToEmails",
        not_that="no refusal of the site's name: the domain meant is that of the e-mail address",
    ),
    Row(
        ('"externalaccountbinding"', "externalaccountbinding", "external account binding", "(eab) key", "eab key",
         "requires eab", "field 'kid' references", "eab payload", "eab credentials"),
        Code.ACCOUNT_EAB_REQUIRED, _S.ACCOUNT,
        "RFC 8555 7.3.4; ZeroSSL and smallstep's sentence; Google Trust Services: Unknown external account binding (EAB) key",
    ),
    Row(
        ("account not found or deactivated", "account is not valid, has status", "no registration exists matching",
         "no account exists with the provided key", 'account "{}" not found', "unable to find account",
         "account does not exist", "must agree to terms of service", "must agree to subscriber agreement", "did not agree to the terms of service",
         "signing key did not match account key", "account is deactivated", "account has been deactivated",
         "account has been revoked", "an account that does not exist", "no account exists", "account is blocked",
         "invalid account url", "keyid header contained an invalid account", "malformed account id in keyid",
         "registration with id", "no registrations with public key", "no active account with id", "request signing key", "unable to find acme account"),
        Code.ACCOUNT_INVALID, _S.ACCOUNT, "boulder wfe2/verify.go, wfe2/wfe.go; pebble wfe/wfe.go",
        not_that="no refusal of the site's name, whatever the type says",
    ),
    Row(
        ("anti-replay nonce", "invalid nonce", "unacceptable nonce"),
        Code.CA_UNAVAILABLE, _S.ORDER, "RFC 8555 6.5.1; boulder wfe2/verify.go; certbot retries once",
        says="A one-time number of the CA's protocol ran out between two requests.",
    ),
    Row(
        ("no jwk in jws header", "no embedded jwk in jws header", "jws verification error", "invalid jwk in jws header",
         "parse error reading jws", "invalid content-type header on post", "no content-type header on post",
         "mutually exclusive", "no key id in jws header", "no key id (kid) in jws header", "unable to read/verify body",
         "post-as-get requests must have", "does not match expected algorithm", "jws header parameter 'url'",
         "method not allowed", "no body on post", "request payload did not parse as json", "request payload was not valid json",
         "error unmarshaling json", "unable to unmarshal neworder"),
        Code.CERTBOT_BROKEN, _S.ACCOUNT, "boulder wfe2/verify.go: a client whose parts do not fit signs wrongly",
    ),
    Row(
        ("signature algorithm not supported", "signed with an algorithm the server does not support",
         "jws signature header contains unsupported algorithm"),
        Code.CERTBOT_OUTDATED, _S.ACCOUNT, "boulder csr/csr.go, wfe2/verify.go",
    ),
    Row(
        ("unrecognized profile name", "use certificate profile", "key size not supported", "public key must be different",
         "public key is forbidden", "invalid public key in csr", "ecdsa curve"),
        Code.INTERNAL, _S.ORDER, "boulder ra/ra.go, goodkey/good_key.go, csr/csr.go",
        says="The CA refuses the kind of key or the profile that was asked for.",
        fix="Ask for a key and a profile that the CA offers.",
    ),
)  # fmt: skip

NAMES = (
    Row(
        ("wildcard names not supported", "wildcard domain names are not supported", "wildcard domains are not supported",
         "authorization for a wildcard name is forbidden", "does not support issuing wildcard certificates"),
        Code.WILDCARD_NEEDS_DNS, _S.ORDER, f"{_PA}; certbot client.py; acme client.py",
    ),
    Row(
        ('cannot issue for "{host}"', "dns identifier is disallowed [{host}]", "{host} is a forbidden domain",
         "forbidden by policy", "policy forbids issuing for name", "name is blacklisted", "identifier is disallowed",
         "public suffix", "is an icann tld", "invalid character in dns name", "domain name contains an invalid character",
         "dns name too long", "longer than 253 bytes", "too many labels", "more than 10 labels", "have enough labels",
         "needs at least one dot", "dns name was empty", "(name) is empty", "ends in a period", "name ends in a dot",
         "label is too short", "two dots in a row", "label is too long", "longer than 63 bytes", "malformed punycode",
         "malformed idn", "r-ldh", "more than one wildcard", "malformed wildcard", "contains an invalid wildcard",
         "wildcard for an icann tld", "issuance for ip addresses", "value is an ip address", "an unsafe domain by",
         "name is not whitelisted", "(starting with xn--) not yet supported", "domain name is empty", "ip address is invalid",
         "can not issue a certificate for an ip address", "is redundant with a wildcard domain", "included empty domain name",
         "included empty identifier", "did not specify any identifiers", "order included dns ", "order included a dns identifier", "order included malformed ip", "length of all identifier values", "identifier type", "unsupported identifier", "does not permit {} identifiers", "invalid non-dns type identifier",
         "cannot contain more than {n} dns names",
         "cannot contain more than {n} identifiers", "cn was longer than",
         "will not issue certificates for the identifier", "invalid identifiers requested", "invalid domain name"),
        Code.REJECTED_BY_CA, _S.ORDER, f"{_PA}; pebble wfe/wfe.go; Sectigo's sentence at ZeroSSL",
    ),
)  # fmt: skip

SERVERS = (
    Row(
        ("sct embedding requirements", "performvalidation rpc", "validation rpc", "could not communicate with va",
         "too few remote", "insufficient remote perspectives", "validation failed sanity check", "error creating new cert",
         "problem getting authorization", "unable to get nonce", "error retrieving account", "failure while checking pause",
         "expired authorization", "no such authorization", "no such challenge", "no order for id", "no order found for",
         "authorization must be pending", "challenge is not pending", "is not acceptable for finalization",
         "failed to retrieve order", "authorizations for these", "order is expired", "order {} is expired", "unable to find authorization", "authorization with id", "setting order processing", "challenge failed consistency check",
         "error persisting", "is not ready to be finalized", "error getting validation results"),
        Code.CA_UNAVAILABLE, _S.ORDER, "boulder ra/ra.go, va/va.go, wfe2/wfe.go: serverInternal and races of its own state",
        says="The CA had a fault of its own.",
    ),
)  # fmt: skip

_TITLES = "acme messages.py ERROR_CODES: certbot's own words for a type, printed where the CA gave no detail"
TITLES = Table(
    "CA",
    (),
    (
        Row(("the server experienced an internal error",), Code.CA_UNAVAILABLE, _S.ORDER, _TITLES, weight=Weight.CRASH),
        Row(("there were too many requests of a given type",), Code.TOO_MANY_REQUESTS, _S.ORDER, _TITLES, weight=Weight.CRASH),
        Row(("certification authority authorization (caa) records forbid",), Code.CAA_FORBIDS, _S.FINALIZE, _TITLES, weight=Weight.CRASH),
    ),
)  # fmt: skip
"""Less than a cause: a detail beside it says more, as with a busy service that goes by `too many requests`."""

SAYINGS = Table("CA", (), (*LIMITS, *ACCOUNTS, *NAMES, *SERVERS))
"""Texts that stand for themselves, in a problem's detail or alone on a console."""

DNS_OWNER = Row(
    ("nxdomain looking up", "no valid a records found for", "no valid aaaa records found for",
     "no valid ip addresses found for", "no ip addresses found for", "no such host", "could not resolve url",
     "could not resolve host", "has no ipv4 or ipv6 addresses", "no ipv4 addresses to try", "refused looking up",
     "could not resolve a domain name", "dns record does not exist", "no a or aaaa record"),
    Code.DNS_NOT_RESOLVING, _S.CHALLENGE, "boulder bdns/problem.go, va/dns.go; pebble: could not resolve URL; FACTS-certbot 3.3",
)  # fmt: skip
"""The DNS gave a definite answer, and it is no: only the owner can change that."""

DNS_SOON = Row(
    ("servfail looking up", "query timed out", "server failure at resolver", "networking error looking up",
     "dnssec:", "dnssec", "response was truncated", "looking up {}for {}:", "dns problem:", "server misbehaving"),
    Code.DNS_NOT_RESOLVING, _S.CHALLENGE,
    "boulder bdns/problem.go: no answer at all, so nobody's record is wrong for certain; FACTS-certbot 3.3",
    retry=Retry.SOON, says="The CA's look-up of the name in DNS failed.",
    fix="Nothing yet: it is tried again soon. Should it go on failing, ask whoever runs the domain's name servers.",
)  # fmt: skip
"""The look-up itself failed."""

CAA = Row(
    ("prevents issuance", "were malformed", "caa record", "caa check failed"),
    Code.CAA_FORBIDS, _S.CHALLENGE, "boulder va/caa.go; type caa, connection or None (FACTS-certbot 4.6)",
)  # fmt: skip

CONNECTION = Row(
    ("timeout during", "timeout after connect", "connection refused", "connection reset by peer", "network unreachable",
     "network is unreachable", "no route to host", "connection timed out", "connection timeout", "i/o timeout",
     "deadline exceeded", "could not connect to", "failed to connect to", "unable to connect to", ":timeout", "timed out"),
    Code.PORT_80_BLOCKED, _S.CHALLENGE, "boulder va/va.go detailedError, since 2016 (then the bare word Timeout); pebble: dial tcp",
)  # fmt: skip

HTTP2 = Row(
    ("server is speaking http/2 over http",),
    Code.CHALLENGE_FAILED, _S.CHALLENGE, "boulder va/va.go: `listen 80 http2` in any server block of that address",
    retry=Retry.SERVER_ADMIN, says="nginx speaks HTTP/2 on port 80, which the CA's check cannot read.",
    fix="Take `http2` off every `listen` line of port 80, in all server blocks, and reload nginx.",
    not_that="no closed port, although the type is connection",
)  # fmt: skip

PLAIN_ON_443 = Row(
    ("server only speaks http, not tls",),
    Code.CHALLENGE_FAILED, _S.CHALLENGE, "boulder va/va.go: port 80 redirects to https, where nginx listens without ssl",
    retry=Retry.SERVER_ADMIN, says="Port 443 answers without encryption.",
    fix="Add `ssl` to the `listen 443` line, or remove the redirect until the certificate is there.",
)  # fmt: skip

REDIRECTS = Row(
    ("redirect loop detected", "too many redirects", "maximum redirects"),
    Code.CHALLENGE_FAILED, _S.CHALLENGE, "boulder va/http.go: both ports answer, the path leads in a circle",
    says="The site redirects the CA's check in a circle.",
    fix="Serve /.well-known/acme-challenge/ without redirect; look at nginx, the application and a proxy in front.",
    not_that="no closed port, although the type is connection",
)  # fmt: skip

ANSWERS = Row(
    ("invalid response from", "did not match this challenge", "non-200 status code from http", "with status code {n}",
     "keyauthorization does not match", "key authorization", "invalid port in redirect target", "in redirect target",
     "redirect target too long", "cannot follow http 303", "disallowed redirect", "error getting validation data",
     "error reading http response body", "remote error: tls", "tls: ", "incorrect validation certificate",
     "no certs presented", "no txt record found", "incorrect txt record", "malformed http", "unexpected response",
     "didn't match the challenge", ": eof", "unexpected eof", "support tlsv1.2 or better"),
    Code.CHALLENGE_FAILED, _S.CHALLENGE, "boulder va/http.go, va/va.go, va/dns.go; pebble va/va.go",
)  # fmt: skip

TLS_SNI_PORT = Row(
    ("for tls-sni-01 challenge", "for the tls-sni-01 challenge", "for tls-alpn-01 challenge", "for the tls-alpn-01 challenge"),
    Code.PORT_443_BLOCKED, _S.CHALLENGE, "boulder va/va.go before 2019: Failed to connect to IP:443 for tls-sni-01 challenge",
)  # fmt: skip

GEO = Row(
    ("during secondary validation",),
    Code.GEO_BLOCKED, _S.CHALLENGE, "boulder va/va.go: the first vantage point passed, the remote ones did not",
    not_that="no closed port: the CA's first check got through",
)  # fmt: skip

CLOUDFLARE_DOWN = Row(
    ("invalid response from",),
    Code.CLOUDFLARE_ORIGIN_DOWN, _S.CHALLENGE, "Cloudflare's own statuses 520 to 524, 527, 530; boulder va/http.go prints the number",
    not_that="no wrong answer of the server: the status is the proxy's",
)  # fmt: skip

CLOUDFLARE_STRICT = Row(
    ("invalid response from",),
    Code.CLOUDFLARE_STRICT_ORIGIN, _S.CHALLENGE, "Cloudflare's own statuses 525 and 526; boulder va/http.go prints the number",
    not_that="no wrong answer of the server: the status is the proxy's",
)  # fmt: skip

CLOUDFLARE_LOOP = Row(
    ("redirect loop detected", "too many redirects"),
    Code.CLOUDFLARE_FLEXIBLE_LOOP, _S.CHALLENGE, "the address in the CA's text is Cloudflare's; FACTS-certbot 2, row 18",
)  # fmt: skip

UNTOLD = Row(
    (), Code.INTERNAL, _S.CHALLENGE, "the text is cut before the CA's reason, or holds none: no guess",
    says="The CA's check of the site failed, but this text does not say why.",
    fix="Read the debug log, where the CA's whole answer stands.",
)  # fmt: skip

UNTOLD_REQUEST = Row(
    (), Code.INTERNAL, _S.ORDER, "a refusal whose reason is missing or unknown: no guess",
    says="The CA refused the request, for a reason that this text does not tell or that is new.",
    fix="Read the debug log, where the CA's whole answer stands; report the text, so that it is known the next time.",
)  # fmt: skip
