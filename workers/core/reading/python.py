"""What Python, its libraries and the C library say: network to the CA, tracebacks, error numbers.

Sources: requests `adapters.py`, urllib3 `exceptions.py`, `util/retry.py`, Python `socket`, `ssl` (OpenSSL's
`x509_txt.c`, `ssl_err.c`), `http.client`; glibc's `gai_strerror` and `strerror`; pkg_resources, importlib, pyOpenSSL,
josepy, cryptography as certbot's reports show them (FACTS-certbot 4.5, 4.6).
"""

from contracts.codes import Code, Retry
from workers.core.reading.values import Row, Stage, Table, Weight

_S = Stage
_NOT_LIMIT = (
    "no limit of the CA: `Max retries exceeded` is the client's own word for a connection that failed"
)

NETWORK = Table(
    "network to the CA",
    (),
    (
        Row(
            ("temporary failure in name resolution", "gaierror(-3,", "errno -3]", "resolver timed out", "try again later]"),
            Code.CA_UNREACHABLE, _S.ACCOUNT, "glibc EAI_AGAIN: the resolver did not answer, and may soon",
            retry=Retry.SOON, says="This server's resolver did not answer when it was asked for the CA's address.",
            fix="Nothing yet: it is tried again soon. Should it go on, look at /etc/resolv.conf and the firewall for port 53.",
            not_that=_NOT_LIMIT,
        ),
        Row(
            ("name or service not known", "no address associated with hostname", "nodename nor servname provided", "gaierror(-2,", "errno -2]",
             "gaierror(-5,", "errno -5]", "name does not resolve", "name has no usable address", "getaddrinfo failed", "failed to resolve 'acme",
             "failed to resolve 'dv.acme", "could not resolve host: acme", "unable to resolve host address", "resolve 'acme-v0"),
            Code.CA_UNREACHABLE, _S.ACCOUNT, "glibc EAI_NONAME, EAI_NODATA; musl; curl, wget",
            says="This server cannot resolve the CA's host name.", not_that=_NOT_LIMIT,
            unless=("temporaryfailureinnameresolution", "errno-3]", "gaierror(-3,"),
        ),
        Row(
            ("connecttimeouterror", "connecttimeout", "network is unreachable", "no route to host",
             "connection timed out. (connect timeout", "errno 101]", "errno 113]", "errno 110]", "errno 111]", "tunnel connection failed",
             "cannot connect to proxy", "proxyerror", "unable to connect to proxy", "connection refused')", "407 proxy authentication",
             "invalidproxyurl", "not supported proxy scheme", "missing dependencies for socks support"),
            Code.CA_UNREACHABLE, _S.ACCOUNT, "requests ConnectTimeout, ProxyError; urllib3 NewConnectionError; errno 101, 110, 111, 113",
            not_that=_NOT_LIMIT, unless=("sshfailed",),
        ),
        Row(
            ("valueerror: requesting ",),
            Code.CA_UNREACHABLE, _S.ACCOUNT, "acme client.py _send_request: `Requesting HOST/PATH: WHY` in place of requests' long words",
            not_that=_NOT_LIMIT, unless=("temporaryfailureinnameresolution", "nameorservicenotknown", "noaddressassociated"),
        ),
        Row(
            ("certificate is not yet valid", "not yet valid (_ssl.c"),
            Code.CLOCK_SKEW, _S.ACCOUNT, "OpenSSL X509_V_ERR_CERT_NOT_YET_VALID",
            says="This server's clock is behind: the CA's certificate looks to it as if it were not valid yet.",
        ),
        Row(
            ("certificate verify failed", "certificate_verify_failed", "bad handshake", "ca cert does not include key usage", "sslerror:",
             "sslcertverificationerror", "wrong version number", "tlsv1 alert", "sslv3 alert", "unable to get local issuer",
             "self-signed certificate in certificate chain", "could not find a suitable tls ca certificate bundle",
             "unsafe legacy renegotiation", "doesn't match '", "unexpected eof while reading", "eof occurred in violation of protocol",
             "ssl: unknown_ca", "dh key too small", "ca certificate bundle"),
            Code.CA_UNREACHABLE, _S.ACCOUNT, "OpenSSL x509_txt.c, ssl_err.c through requests SSLError; FACTS-rabbitmq4-debian13 8",
            says="TLS from this server to the CA fails.",
            fix="Install current root certificates (ca-certificates), and see whether a proxy or firewall opens TLS.", not_that=_NOT_LIMIT,
        ),
        Row(
            ("connectionreseterror", "errno 104]", "remote end closed connection", "remotedisconnected", "badstatusline", "connection reset by peer",
             "incompleteread", "chunkedencodingerror", "connection aborted", "connection broken"),
            Code.CA_UNREACHABLE, _S.ACCOUNT, "http.client, urllib3 ProtocolError: the connection was cut while it was in use",
            retry=Retry.SOON, says="The connection to the CA was cut.", weight=Weight.CONSEQUENCE, not_that=_NOT_LIMIT,
            fix="Nothing yet: it is tried again soon. Should it go on, look for a firewall or proxy between this server and the CA.",
        ),
        Row(
            ("read timed out", "readtimeout", "readtimeouterror", "the read operation timed out"),
            Code.CA_UNAVAILABLE, _S.ORDER, "requests ReadTimeout: connected, but the CA did not answer in time",
        ),
        Row(
            ("clienterror: <response [429]>",),
            Code.TOO_MANY_REQUESTS, _S.ORDER, "acme client.py _check_response: a refusal without a problem document",
        ),
        Row(
            ("clienterror: <response [5", "unexpected response content-type", "expecting value: line 1 column 1", "no json object could be decoded",
             "jsondecodeerror", "location header missing", '"location" header missing', "missingnonce", "missing nonce", "responseerror('too many 5", "too many 500 error responses"),
            Code.CA_UNAVAILABLE, _S.ORDER, "acme client.py _check_response, errors.MissingNonce: the CA's front answered, not the CA",
        ),
        Row(
            ("clienterror: <response [403]>", "clienterror: <response [404]>", "clienterror: <response [451]>", "clienterror: <response [3"),
            Code.CA_UNREACHABLE, _S.ACCOUNT, "acme client.py: something between this server and the CA answers, or the URL is wrong",
        ),
        Row(
            ("clienterror: <response [410]>", "keyerror: 'directory field not found'", "directory field not found", 'directory field "',
             "keyerror: 'new-authz'", "keyerror: 'newnonce'", "keyerror: 'new-reg'"),
            Code.CERTBOT_OUTDATED, _S.ACCOUNT, "acme messages.py Directory: client and CA speak different versions of ACME",
        ),
        Row(
            ("max retries exceeded with url", "failed to establish a new connection"),
            Code.CA_UNREACHABLE, _S.ACCOUNT, "requests adapters.py", weight=Weight.CONSEQUENCE, not_that=_NOT_LIMIT,
        ),
    ),
)  # fmt: skip

CRASHES = Table(
    "Python",
    (),
    (
        Row(
            ("codec can't decode byte",),
            Code.NGINX_CONFIG_UNREADABLE, _S.PLUGIN, "certbot_nginx parser.py before 1.12: reads nginx's files as ASCII under LANG=C",
            says="certbot cannot decode a file of nginx's configuration.",
            fix="Find the bytes outside ASCII (grep -nP '[^\\x00-\\x7F]' -r /etc/nginx), take them out or save as UTF-8; or upgrade certbot.",
            not_that="no fault of the names: punycode is plain ASCII", weight=Weight.CRASH,
        ),
        Row(
            ("codec can't encode character",),
            Code.CERTBOT_BROKEN, _S.START, "Python under LANG=C prints ASCII only", weight=Weight.CRASH,
            says="certbot cannot print a character under this locale.", fix="Call certbot with LC_ALL=C.UTF-8.",
        ),
        Row(
            ("invalid version. the only valid version for x509req is 0", "module 'lib' has no attribute", "module 'josepy' has no attribute",
             "module 'openssl.crypto' has no attribute", "has no attribute 'x509_v_flag", "no attribute 'comparablex509'", "can't set attribute",
             "pkg_resources.versionconflict", "pkg_resources.distributionnotfound", "pkg_resources.contextualversionconflict",
             "packagenotfounderror", "distribution was not found and is required", "importerror:", "modulenotfounderror:", "no module named",
             "undefined symbol:", "cannot import name", "has no attribute '", "unexpected keyword argument", "missing 1 required positional",
             "syntaxerror:", "no matching distribution", "incompatible library version", "pyo3", "panicexception"),
            Code.CERTBOT_BROKEN, _S.START, "pyOpenSSL, josepy, cryptography, pkg_resources: parts of different versions",
            weight=Weight.CRASH,
        ),
    ),
)  # fmt: skip

PROGRAM_FAULTS = frozenset(
    [
        "attributeerror",
        "typeerror",
        "nameerror",
        "keyerror",
        "indexerror",
        "importerror",
        "modulenotfounderror",
        "syntaxerror",
        "assertionerror",
        "versionconflict",
        "distributionnotfound",
        "contextualversionconflict",
        "notimplementederror",
        "unboundlocalerror",
        "recursionerror",
        "zerodivisionerror",
        "systemerror",
        "packagenotfounderror",
        "valueerror",
        "runtimeerror",
        "indentationerror",
        "lookuperror",
    ]
)
"""Exception types that no user and no site can bring about: an own fault of certbot or of parts that do not fit."""

CRASHED = Row(
    (), Code.CERTBOT_BROKEN, _S.START, "a Python exception that only a program's own fault raises", weight=Weight.CONSEQUENCE,
)  # fmt: skip

PARSER_CRASHED = Row(
    (), Code.NGINX_CONFIG_UNREADABLE, _S.PLUGIN, "an exception raised inside certbot_nginx's parser", weight=Weight.CRASH,
)  # fmt: skip
LINEAGE_CRASHED = Row(
    (), Code.LINEAGE_BROKEN, _S.SAVE, "an exception raised while a renewal file was read", weight=Weight.CRASH,
)  # fmt: skip
