"""Text that comes from outside: what may be stored at all, and how a value is shown in a message."""

import re
from typing import Any

# CloudEvents 1.0 "Type System" forbids these in strings; PostgreSQL can store neither U+0000 nor a lone surrogate.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_FORBIDDEN_BUT_LAYOUT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_SHOWN_CHARACTERS = 60


def is_plain(text: str) -> bool:
    """Say whether the text has no control character, lone surrogate or non-character.

    Args:
        text: any string that JSON can carry.

    Returns:
        True where it can be stored, published and printed as it is.
    """
    return _FORBIDDEN.search(text) is None


def is_storable(value: Any) -> bool:
    """Say whether PostgreSQL's jsonb can hold a JSON value: it has neither U+0000 nor lone surrogates.

    Args:
        value: a parsed JSON document, its nesting bounded.
    """
    match value:
        case str():
            return _UNSTORABLE.search(value) is None
        case list():
            return all(map(is_storable, value))
        case dict():
            return all(is_storable(key) and is_storable(member) for key, member in value.items())
        case _:
            return True


def cleaned(text: str, limit_characters: int) -> str:
    """Make text of unknown origin (certbot's output, an exception) fit for an event.

    Args:
        text: any string.
        limit_characters: the longest result; what is cut off ends in an ellipsis.

    Returns:
        The text with every character that could not be stored replaced by U+FFFD; line breaks and tabs stay.
    """
    text = _FORBIDDEN_BUT_LAYOUT.sub("\ufffd", text)
    return text if len(text) <= limit_characters else text[: limit_characters - 1] + "…"


def shown(value: Any) -> str:
    """Show a JSON value inside a message, short and harmless.

    Args:
        value: anything that a JSON document can hold.

    Returns:
        Strings in quotes (cut after 60 characters, unprintable ones escaped); a list or object only by its kind.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            cut = value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"
            # Bidirectional overrides and the like could make a name read as another one.
            visible = cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
            return f'"{visible}"'
        case int() | float():
            return shown_number(value)
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"


def shown_number(value: float) -> str:
    """Show a number; one with more digits than anyone reads is only called too long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else "a number too long to show"
