"""Whether a changed JSON Schema still fits those who were built on the old one. Pure: two schemas in, objections out.

A command is written by others, so what they may send today must stay welcome: the new schema may only ask for less.
An event is read by others, so what they may rely on today must stay true: the new schema may only promise more.
Fields that one side does not know are ignored by it in both directions.
"""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_AT_MOST = ("maximum", "maxLength", "maxItems")
_AT_LEAST = ("minimum", "minLength", "minItems")
_NOT_COMPARABLE = ("pattern", "format")


def objections_to_command(old: Schema, new: Schema) -> list[str]:
    """List what a producer that sends by the old schema could trip over."""
    return list(dict.fromkeys(_compare(old, new, old, new, "", is_command=True)))


def objections_to_event(old: Schema, new: Schema) -> list[str]:
    """List what a consumer that reads by the old schema could miss."""
    return list(dict.fromkeys(_compare(old, new, old, new, "", is_command=False)))


def _compare(
    old: Any, new: Any, old_root: Schema, new_root: Schema, path: str, *, is_command: bool
) -> Iterator[str]:
    old_kinds, new_kinds = _kinds(old, old_root), _kinds(new, new_root)
    wide, narrow = (new_kinds, old_kinds) if is_command else (old_kinds, new_kinds)
    for kind in sorted(set(narrow) - set(wide)):
        yield f"{path or 'document'}: {kind} is {'no longer accepted' if is_command else 'new'}"
    for kind in sorted(set(old_kinds) & set(new_kinds)):
        before, after = old_kinds[kind], new_kinds[kind]
        yield from _compare_values(before, after, path, is_command=is_command)
        yield from _compare_members(before, after, old_root, new_root, path, is_command=is_command)


def _kinds(node: Any, root: Schema) -> dict[str, Schema]:
    """Split a schema into one plain schema per JSON type."""
    node = dict(node)
    if "$ref" in node:
        target: Any = root
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    variants = [variant for variant in node.get("anyOf", ()) if "type" in variant or "$ref" in variant]
    if variants and "type" not in node:
        return {kind: schema for variant in variants for kind, schema in _kinds(variant, root).items()}
    if "const" in node:
        node["enum"] = [node["const"]]
    types = node.get("type", "string" if "enum" in node else "any")
    return dict.fromkeys([types] if isinstance(types, str) else types, node)


def _compare_values(before: Schema, after: Schema, path: str, *, is_command: bool) -> Iterator[str]:
    """What a value may be. For a command `after` must allow all that `before` does; for an event the reverse."""
    wide, narrow = (after, before) if is_command else (before, after)
    if "enum" in wide and not set(narrow.get("enum", ["anything"])) <= set(wide["enum"]):
        yield f"{path}: values were {before.get('enum', 'any')}, are {after.get('enum', 'any')}"
    for key in _AT_MOST:
        if key in wide and narrow.get(key, float("inf")) > wide[key]:
            yield f"{path}: {key} was {before.get(key)}, is {after.get(key)}"
    for key in _AT_LEAST:
        if key in wide and narrow.get(key, 0) < wide[key]:
            yield f"{path}: {key} was {before.get(key)}, is {after.get(key)}"
    for key in _NOT_COMPARABLE:
        if key in wide and narrow.get(key) != wide[key]:
            yield f"{path}: {key} was {before.get(key)}, is {after.get(key)}"
    if wide.get("additionalProperties", True) is False:
        yield f"{path or 'document'}: closed to fields that a later version adds"


def _compare_members(
    before: Schema, after: Schema, old_root: Schema, new_root: Schema, path: str, *, is_command: bool
) -> Iterator[str]:
    old_fields, new_fields = before.get("properties", {}), after.get("properties", {})
    for name in sorted(set(old_fields) - set(new_fields)):
        yield f"{path}.{name}: removed"
    required_before, required_after = set(before.get("required", ())), set(after.get("required", ()))
    if is_command:
        for name in sorted(required_after - required_before):
            yield f"{path}.{name}: now required"
    else:
        for name in sorted((required_before - required_after) & set(new_fields)):
            yield f"{path}.{name}: no longer always there"
    for name in sorted(set(old_fields) & set(new_fields)):
        yield from _compare(
            old_fields[name], new_fields[name], old_root, new_root, f"{path}.{name}", is_command=is_command
        )
    if "items" in before and "items" in after:
        yield from _compare(
            before["items"], after["items"], old_root, new_root, f"{path}[]", is_command=is_command
        )
