"""What `nginx -T` printed becomes one tree of directives, every include replaced by the files that it names.

nginx prints each file once, behind a line `# configuration file PATH:`; which include takes which file is found by
path and pattern, as glob(3) would find it on the server's disk (`ngx_conf_include`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from workers.core.nginx.syntax import MAX_DIRECTIVES, Directive, Reader, complain

MAX_INCLUDE_DEPTH = 8
MAX_GLOB_TESTS = 1_000_000
"""Names compared with include patterns, in all: bounds what many patterns times many files would cost."""

_MARKER = re.compile(r"^# configuration file (.+):\r?$", re.MULTILINE)
_GLOB = re.compile(r"[*?\[]")
_OPAQUE = frozenset({
    "types", "map", "geo", "split_clients", "match", "charset_map", "upstream", "events", "stream", "mail",
})  # fmt: skip
"""Blocks that hold data or other protocols; nothing in them decides how HTTP is answered."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole configuration.

    Attributes:
        directives: the main file's directives, includes replaced.
        problems: what could not be read, each as one sentence with its place.
        not_utf8: the files that hold bytes which are no UTF-8, the main file first.
        main: the main file.
    """

    directives: tuple[Directive, ...]
    problems: tuple[str, ...]
    not_utf8: tuple[str, ...] = ()
    main: str = ""


def _split(text: str) -> dict[str, str]:
    """Split a dump into its files, in the order in which nginx read them; the first is the main file."""
    markers = list(_MARKER.finditer(text))
    if not markers:
        return {"": text}
    files: dict[str, str] = {}
    for marker, after in zip(markers, [*markers[1:], None], strict=True):
        files.setdefault(marker[1], text[marker.end() + 1 : after.start() if after else len(text)])
    return files


@dataclass(slots=True)
class _Includes:
    """Resolves includes by the paths of the dump."""

    files: Mapping[str, tuple[Directive, ...]]
    prefix: str
    problems: list[str]
    left: int = MAX_DIRECTIVES
    tests_left: int = MAX_GLOB_TESTS
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def paths(self, pattern: str) -> tuple[str, ...]:
        path = pattern if pattern.startswith("/") else f"{self.prefix}/{pattern}"
        if path not in self.known:
            self.known[path] = self._search(path)
        return self.known[path]

    def _search(self, path: str) -> tuple[str, ...]:
        if path in self.files or not _GLOB.search(path):
            return (path,) if path in self.files else ()
        self.tests_left -= len(self.files)
        if self.tests_left < 0:
            return ()
        parts = path.split("/")
        return tuple(sorted(name for name in self.files if _same_path(parts, name.split("/"))))

    def expand(self, directives: tuple[Directive, ...], depth: int = 0) -> Iterator[Directive]:
        for directive in directives:
            if self.left <= 0:
                return
            self.left -= 1
            if directive.name == "include" and directive.block is None and directive.args:
                yield from self._included(directive, depth)
            elif directive.block and directive.name not in _OPAQUE:
                inner = tuple(self.expand(directive.block, depth))
                yield Directive(directive.name, directive.args, inner, directive.file, directive.line)
            else:
                yield directive

    def _included(self, directive: Directive, depth: int) -> Iterator[Directive]:
        if depth >= MAX_INCLUDE_DEPTH:
            complain(self.problems, f"{directive.where}: includes are nested too deeply")
            return
        paths = self.paths(directive.args[0])
        if not paths and not _GLOB.search(directive.args[0]):
            complain(self.problems, f"{directive.where}: the dump does not hold {directive.args[0]}")
        for path in paths:
            yield from self.expand(self.files[path], depth + 1)


def _same_path(pattern: list[str], path: list[str]) -> bool:
    """Compare part by part: in glob(3) `*` crosses no slash and does not take a leading dot."""
    return len(pattern) == len(path) and all(
        fnmatchcase(b, a) and (a.startswith(".") or not b.startswith("."))
        for a, b in zip(pattern, path, strict=True)
    )


def parse_dump(text: str) -> Tree:
    """Read the output of `nginx -T`, or the text of one configuration file.

    Args:
        text: the dump; anything before its first file marker (nginx's own messages) is ignored. Text without a
            marker is taken as one file, whose includes cannot be found.

    Returns:
        The tree. Never raises; time grows linearly with the text and with what its includes expand to.
    """
    problems: list[str] = []
    left = MAX_DIRECTIVES
    files: dict[str, tuple[Directive, ...]] = {}
    sources = _split(text)
    for path, body in sources.items():
        reader = Reader(body, path, left, problems)
        files[path] = reader.read()
        left = reader.left
    main = next(iter(sources))
    includes = _Includes(files, main.rpartition("/")[0], problems)
    directives = tuple(includes.expand(files[main]))
    if includes.left <= 0:
        complain(problems, f"more than {MAX_DIRECTIVES} directives with the includes: the rest is not read")
    # The dump was decoded with such bytes replaced.
    not_utf8 = tuple(path for path, body in sources.items() if "\ufffd" in body)
    return Tree(directives, tuple(problems), not_utf8, main)
