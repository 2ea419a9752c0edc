"""Which dead letters an operator means, and how many of a kind there are."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class LetterFacts:
    """What is known of a letter.

    Attributes:
        queue: the consumed queue it came from.
        letter_id: its id.
        code: why it was set aside.
        first_at: when it was set aside first, UTC; None where unknown.
        site_id: the site it is about, where that can be told.
        domain: the domain it is about, likewise.
    """

    queue: str
    letter_id: str
    code: str
    first_at: datetime | None
    site_id: str | None
    domain: str | None


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """What an operator asked for; an empty filter means every letter.

    Attributes:
        queues: consumed queues; empty: all.
        codes: codes; empty: all.
        letter_ids: ids or their beginnings; empty: all.
        site_id: of one site.
        domain: of one domain.
        since: set aside first at that time or later, UTC.
    """

    queues: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    letter_ids: tuple[str, ...] = ()
    site_id: str | None = None
    domain: str | None = None
    since: datetime | None = None

    def matches(self, letter: LetterFacts) -> bool:
        """Whether the letter is meant. What is not known of a letter does not match a filter that asks for it."""
        return (
            (not self.queues or letter.queue in self.queues)
            and (not self.codes or letter.code in self.codes)
            and (not self.letter_ids or letter.letter_id.startswith(self.letter_ids))
            and (self.site_id is None or letter.site_id == self.site_id)
            and (self.domain is None or letter.domain == self.domain)
            and (self.since is None or (letter.first_at is not None and letter.first_at >= self.since))
        )


@dataclass(slots=True)
class LetterGroup:
    """Distinct letters of one queue and code, added up one by one.

    Ids are kept as hashes: a hundred thousand letters need a few megabytes.

    Attributes:
        first_at: when the first of them was set aside, UTC.
        last_at: and the last.
    """

    first_at: datetime | None = None
    last_at: datetime | None = None
    _ids: set[int] = field(default_factory=set)

    def add(self, letter_id: str, at: datetime | None) -> None:
        """Count a letter; a copy of one that is counted changes nothing but the times."""
        self._ids.add(hash(letter_id))
        if at is not None:
            self.first_at = at if self.first_at is None else min(self.first_at, at)
            self.last_at = at if self.last_at is None else max(self.last_at, at)

    @property
    def count(self) -> int:
        """How many distinct letters."""
        return len(self._ids)
