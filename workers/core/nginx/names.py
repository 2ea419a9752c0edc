"""Which of several `server_name`s takes a name, as nginx's hashes do it (`ngx_hash_add_key`, `ngx_hash_find_combined`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from workers.core.nginx.regex import search

MAX_EXPRESSIONS = 50
"""Expressions tried for one name; a server has a handful, and each costs time."""

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class NameTable(Generic[Owner]):
    """The names of one listening address.

    Attributes:
        exact: plain names.
        leading: the suffix of `*.x` and `.x`, and whether it takes `x` itself.
        trailing: the prefix of `x.*`.
        expressions: those with a tilde, in their order.
    """

    exact: Mapping[str, Owner]
    leading: Mapping[str, tuple[Owner, bool]]
    trailing: Mapping[str, Owner]
    expressions: tuple[tuple[str, Owner], ...]

    def find(self, name: str) -> Owner | None:
        """Find whose name it is: the exact one, the longest `*.x`, the longest `x.*`, the first expression; or None."""
        if name in self.exact:
            return self.exact[name]
        labels = name.split(".")
        for start in range(len(labels)):
            found = self.leading.get(".".join(labels[start:]))
            if found and (start or found[1]):
                return found[0]
        for end in range(len(labels) - 1, 0, -1):
            prefix = ".".join(labels[:end])
            if prefix in self.trailing:
                return self.trailing[prefix]
        for expression, owner in self.expressions:
            if search(expression, name, ignore_case=True):
                return owner
        return None

    def undecided(self, name: str) -> bool:
        """Whether an expression that cannot be evaluated here might take the name."""
        return any(search(expression, name, ignore_case=True) is None for expression, _ in self.expressions)


def name_table(names: Iterable[tuple[str, Owner]]) -> NameTable[Owner]:
    """Sort names into a table.

    Args:
        names: each name with its owner, in nginx's order. Of conflicting ones the first counts, and nginx only warns:
            `x` behind `.x` is ignored, and so is `.x` as a whole behind `x`.
    """
    exact: dict[str, Owner] = {}
    taken: set[str] = set()
    leading: dict[str, tuple[Owner, bool]] = {}
    trailing: dict[str, Owner] = {}
    expressions: list[tuple[str, Owner]] = []
    for name, owner in names:
        if name.startswith("~"):
            expressions.append((name[1:], owner))
        elif name.startswith("*."):
            leading.setdefault(name[2:], (owner, False))
        elif name.startswith("."):
            if name[1:] not in taken:
                leading.setdefault(name[1:], (owner, True))
            taken.add(name[1:])
        elif name.endswith(".*"):
            trailing.setdefault(name[:-2], owner)
        elif name not in taken:
            taken.add(name)
            exact[name] = owner
    return NameTable(exact, leading, trailing, tuple(expressions[:MAX_EXPRESSIONS]))
