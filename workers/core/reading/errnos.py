"""Error numbers of the C library: the number is the same in every language, and the path tells what it is about.

Sources: Linux `errno-base.h`, `errno.h`; Python prints `[Errno N] text: 'path'`, or `OSError(N, 'text')` unformatted.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType

from contracts.codes import Code, Retry
from workers.core.reading.lines import Document
from workers.core.reading.names import lineages_near
from workers.core.reading.segments import Segments
from workers.core.reading.values import Hit, Row, Stage, Weight

_S = Stage
_ERRNO = re.compile(
    r"(?:\[errno(\d{1,3})\]|(?:oserror|ioerror|permissionerror|filenotfounderror|(?<![a-z])error)\((\d{1,3}),)[^:'\"\[\]]{0,60}[:,]?u?['\"]?(\.{0,2}/[^'\"]{0,300})?"
)

_PLAIN: Mapping[int, Row] = MappingProxyType(
    {
        number: row
        for numbers, row in (
            ((28, 122), Row((), Code.DISK_FULL, _S.SAVE, "Linux ENOSPC, EDQUOT")),
            (
                (5, 30, 38, 95, 107, 116, 117),
                Row(
                    (), Code.FILESYSTEM_UNUSABLE, _S.SAVE, "EIO, EROFS, ENOSYS and EOPNOTSUPP (a share without symbolic links), ENOTCONN, ESTALE, EUCLEAN",
                    not_that="no missing right, although certbot adds its advice about root",
                ),
            ),
            ((1, 13), Row((), Code.PERMISSION_DENIED, _S.START, "Linux EPERM, EACCES")),
            ((12,), Row((), Code.OUT_OF_MEMORY, _S.START, "Linux ENOMEM")),
            ((98,), Row((), Code.PORT_80_IN_USE, _S.CHALLENGE, "Linux EADDRINUSE")),
            ((8, 26), Row((), Code.CERTBOT_BROKEN, _S.START, "Linux ENOEXEC, ETXTBSY")),
            ((40,), Row((), Code.LINEAGE_BROKEN, _S.SAVE, "ELOOP: a link that leads to itself")),
        )
        for number in numbers
    }
)  # fmt: skip

_LOCK = Row(
    (),
    Code.SERVER_BUSY,
    _S.START,
    "EAGAIN at a lock; certbot lock.py",
    not_that="no lack of memory or network: the lock is taken",
)
_ACCOUNT = Row(
    (),
    Code.ACCOUNT_INVALID,
    _S.ACCOUNT,
    "a file error in certbot's accounts folder; certbot account.py",
    not_that="no fault of the disk and none of the certificate",
)
_LINEAGE = Row(
    (),
    Code.LINEAGE_BROKEN,
    _S.SAVE,
    "a file of live, archive, renewal, keys or csr that should be there, or should not; certbot storage.py",
)
_TOKEN = Row(
    (),
    Code.INTERRUPTED,
    _S.CHALLENGE,
    "EEXIST at a token that a killed run left; the next run passes (FACTS-certbot 4.3)",
    retry=Retry.SOON,
)
_NGINX = Row(
    (), Code.NGINX_MISSING, _S.PLUGIN, "ENOENT when nginx was to be started or its folder to be read"
)
_UNKNOWN = Row(
    (),
    Code.INTERNAL,
    _S.SAVE,
    "an error number without a path that tells what it is about",
    weight=Weight.CONSEQUENCE,
)
MOST_ERRORS = 200
"""A log that repeats one error thousands of times says it in the first."""

_FILE_ERRORS = frozenset({2, 17, 20, 21, 22, 39})


def errno_hits(document: Document, segments: Segments) -> Iterator[Hit]:
    """Read every error number that is not the network's, which has rows of its own."""
    squeezed = document.squeezed
    if "errno" not in squeezed and "error(" not in squeezed:
        return
    for found in islice(_ERRNO.finditer(squeezed), MOST_ERRORS):
        number = int(found[1] or found[2])
        path = found[3] or ""
        trace = segments.trace_at(found.start())
        frames = trace.frames if trace else ()
        row = _row(number, path, frames, squeezed[max(0, found.start() - 160) : found.start()])
        if row is None:
            continue
        lineages = lineages_near(path, 0, len(path))
        yield Hit(row, found.start(), found.end(), lineage=lineages[0] if lineages else None)


def _row(number: int, path: str, frames: tuple[str, ...], before: str) -> Row | None:
    if number == 11:  # noqa: PLR2004  # EAGAIN
        locked = any(frame.endswith("lock.py") for frame in frames) or "lock" in before or ".lock" in path
        return _LOCK if locked else None
    if number == 1 and path.startswith(
        "../../archive/"
    ):  # EPERM: root may do all but what the file system cannot
        return _PLAIN[95]
    if number not in _FILE_ERRORS:
        return _PLAIN.get(number)
    if "/accounts/" in path or (frames and frames[-1].endswith("account.py")):
        return _ACCOUNT
    if ".well-known" in path:
        return _TOKEN if number == 17 else _UNKNOWN  # noqa: PLR2004  # EEXIST
    if re.search(r"/(?:live|archive|renewal|keys|csr)(?:/|$)", path) or (
        frames and frames[-1].endswith("storage.py")
    ):
        return _LINEAGE
    if path.startswith(("/etc/nginx", "/usr/sbin/nginx")) or "nginx" in path[-8:]:
        return _NGINX
    return _UNKNOWN
