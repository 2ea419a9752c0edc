"""nginx's own error lines, and what certbot and systemd say of them.

Sources: nginx `src/core/ngx_conf_file.c`, `ngx_connection.c`, `ngx_cycle.c`, `ngx_hash.c`, `src/event/ngx_event_openssl.c`,
`src/http/ngx_http.c`, `ngx_http_core_module.c`, `ngx_http_upstream.c`, `src/os/unix/ngx_process.c`, 1.10 to 1.31;
certbot_nginx `configurator.py` nginx_restart, config_test.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from contracts.codes import Code
from workers.core.reading.lines import Document
from workers.core.reading.names import host, lineage_host, lineages_near, unique
from workers.core.reading.segments import Segments
from workers.core.reading.tables import first
from workers.core.reading.values import Hit, Row, Stage, Table, Weight

_S = Stage
_HEAD = re.compile(r"\[(emerg|alert|crit|error)\](?:\d+#\d+:)?(?:\*\d+)?")
_END = re.compile(
    r"nginx:\[|nginx:configurationfile|\d{4}/\d\d/\d\d\d\d:\d\d:\d\d\[|thenginxpluginis|cleaningupch|nginx\.service:"
    r"|savingdebuglogto|requestingacertificate|anunexpectederror|processing/"
)
_UPSTREAM = re.compile(r"hostnotfoundin(?:upstream|resolver)?\"?([\w][\w.-]{0,252}?)(?::\d+)?(?:\"|in/)")
LONGEST_MESSAGE = 600
MOST_LINES = 60
"""nginx repeats itself: five times for each port that is taken."""

MESSAGES = (
    Row(
        ("(98: address already in use)", "address already in use", "still could not bind()"),
        Code.PORT_80_IN_USE, _S.RELOAD, "nginx ngx_connection.c: EADDRINUSE",
        fix="See what listens (`ss -ltnp`): often an nginx that was started outside systemd; stop that one, then start nginx by systemd.",
    ),
    Row(
        ("(24: too many open files)", "(23: too many open files in system)", "too many open files", "worker_connections are not enough"),
        Code.NGINX_RELOAD_FAILED, _S.RELOAD, "nginx: EMFILE at open(), socket(); FACTS-certbot 2, row 10",
        says="nginx may not open more files, so the new configuration was not taken over.",
        fix="Raise LimitNOFILE of nginx.service (and worker_rlimit_nofile), then restart nginx.",
        not_that="no taken port and no fault of the file that the line names",
    ),
    Row(
        ("(13: permission denied)", "(1: operation not permitted)", "permission denied:fopen", "permission denied:calling fopen"),
        Code.PERMISSION_DENIED, _S.PLUGIN, "nginx -t run by a user who is not root, or stopped by SELinux",
    ),
    Row(("(28: no space left on device)", "no space left"), Code.DISK_FULL, _S.RELOAD, "nginx ngx_files.c: ENOSPC"),
    Row(("(30: read-only file system)", "read-only file system", "(5: input/output error)"), Code.FILESYSTEM_UNUSABLE, _S.RELOAD, "nginx ngx_files.c: EROFS, EIO"),
    Row(("(12: cannot allocate memory)", "cannot allocate memory"), Code.OUT_OF_MEMORY, _S.RELOAD, "nginx ngx_alloc.c: ENOMEM"),
    Row(
        ("invalid pid number", 'nginx.pid" failed', '.pid" failed (2:', "kill({n}, 1) failed", "kill({n},{n}) failed (3: no such process"),
        Code.NGINX_RELOAD_FAILED, _S.RELOAD, "nginx ngx_cycle.c ngx_signal_process: nginx was not running; certbot then starts it",
        weight=Weight.BACKGROUND, says="nginx was not running when it was to be reloaded.",
        fix="Start nginx by its service manager; see that it is this nginx that serves the site.",
    ),
    Row(
        ("duplicate listen options", "server_names_hash", "variables_hash", "could not build"),
        Code.NGINX_CONFIG_BROKEN, _S.RELOAD, "nginx ngx_http.c, ngx_hash.c: also caused by certbot's temporary edit (FACTS-certbot 4.6)",
    ),
    Row(
        ("host not found in upstream", "host not found in resolver", "host not found in"),
        Code.NGINX_CONFIG_BROKEN, _S.RELOAD, "nginx ngx_http_upstream.c, ngx_inet.c",
        says="nginx cannot resolve a host that its configuration names.",
        fix="Correct the name, start what it stands for, or let nginx resolve it at run time.",
        not_that="no fault of the site's DNS: the host is one that nginx passes requests to",
    ),
    Row(
        ("cannot load certificate", "bio_new_file", "ssl_ctx_use_privatekey", "cannot load certificate key", "ssl_ctx_use_certificate",
         "key values mismatch"),
        Code.NGINX_CONFIG_BROKEN, _S.RELOAD, "nginx ngx_event_openssl.c: a certificate that is not there (yet), or does not fit its key",
    ),
)  # fmt: skip

OTHER = Row(
    ("[emerg]",), Code.NGINX_CONFIG_BROKEN, _S.RELOAD, "nginx ngx_conf_file.c: every [emerg] while it reads its configuration",
)  # fmt: skip
"""An `[emerg]` that no row knows: nginx refuses its configuration, for a reason that its own line gives."""

AROUND = Table(
    "nginx around",
    ("nginx",),
    (
        Row(
            ("nginx restart failed", "error while running nginx -c {} -s reload"),
            Code.NGINX_RELOAD_FAILED, _S.RELOAD, "certbot_nginx configurator.py nginx_restart", weight=Weight.CONSEQUENCE,
        ),
        Row(
            ("error while running nginx -c {} -t", "nginx: configuration file {} test failed", "configuration file {} test failed"),
            Code.NGINX_CONFIG_BROKEN, _S.PLUGIN, "certbot_nginx configurator.py config_test; nginx nginx.c", weight=Weight.CONSEQUENCE,
        ),
        Row(
            ("job for nginx.service failed", "failed to start nginx", "failed to reload nginx", "nginx.service: failed with result",
             "nginx.service is not active, cannot reload", "nginx.service failed", "failed to start the nginx", "failed to start a high performance",
             "nginx.service: start request repeated too quickly", "unit nginx.service entered failed state", "reload failed for nginx",
             "failed to restart nginx", "unable to restart service nginx", "unable to reload service nginx", "job for nginx.service canceled",
             "nginx.service: control process exited"),
            Code.NGINX_RELOAD_FAILED, _S.RELOAD, "systemd systemctl.c, job.c; ansible", weight=Weight.CONSEQUENCE,
        ),
        Row(
            ("parseexception", "pyparsing.", "nginxparser.py", "expected stringend", "expected {} (at char {n})"),
            Code.NGINX_CONFIG_UNREADABLE, _S.PLUGIN, "certbot_nginx nginxparser.py, through pyparsing", weight=Weight.CONSEQUENCE,
        ),
    ),
)  # fmt: skip

_RESTART = "nginxrestartfailed"
_TEST = "errorwhilerunningnginx"


def nginx_hits(document: Document, segments: Segments) -> Iterator[Hit]:
    """Read every error line of nginx; what certbot was doing tells whether its configuration or its reload failed."""
    squeezed = document.squeezed
    if "[emerg]" not in squeezed and "[error]" not in squeezed and "[alert]" not in squeezed:
        return
    for head in islice(_HEAD.finditer(squeezed), MOST_LINES):
        limit = min(len(squeezed), head.end() + LONGEST_MESSAGE)
        ending = _END.search(squeezed, head.end(), limit)
        end = ending.start() if ending else limit
        message = squeezed[head.end() : end]
        row = next((row for row in MESSAGES if first(row, message)), OTHER if head[1] == "emerg" else None)
        if row is None or (head[1] in {"error", "crit"} and row.weight is not Weight.BACKGROUND):
            continue
        found = Hit(row, head.start(), end, names=_names(message, row), weight=row.weight, speaker="nginx")
        yield _in_context(document, segments, found, message)


def _in_context(document: Document, segments: Segments, hit: Hit, message: str) -> Hit:
    before = document.squeezed[max(0, hit.start - 400) : hit.start]
    restart, test = before.rfind(_RESTART), before.rfind(_TEST)
    if hit.start in segments.hooks:
        return replace(hit, stage=Stage.HOOK)
    if restart > test:
        reload_failed = hit.row.code is Code.NGINX_CONFIG_BROKEN
        return replace(hit, stage=Stage.RELOAD, code=Code.NGINX_RELOAD_FAILED if reload_failed else None)
    if test > restart:
        return replace(hit, stage=Stage.PLUGIN)
    if "/live/" in message and "nosuchfile" in message:
        # nginx by itself: it lacks a certificate that certbot was to bring, so certbot's fault came first.
        return replace(hit, stage=Stage.SERVE)
    return hit


def _names(message: str, row: Row) -> tuple[str, ...]:
    if row.code is not Code.NGINX_CONFIG_BROKEN:
        return ()
    upstream = _UPSTREAM.search(message)
    if upstream:
        return unique([host(upstream[1])])
    return unique(lineage_host(name) for name in lineages_near(message, 0, len(message)))
