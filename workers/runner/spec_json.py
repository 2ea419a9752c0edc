"""What an attempt runs, as it is kept with the attempt: whoever takes the job over sends the very same START."""

from dataclasses import asdict, fields
from typing import Any

from workers.core.model import Authenticator, RunSpec


def spec_to_json(spec: RunSpec) -> dict[str, object]:
    """Write a spec for `job_attempt.spec`."""
    return asdict(spec)


def spec_from_json(stored: dict[str, Any]) -> RunSpec:
    """Read what `spec_to_json` wrote; a field that this version does not know was written by a newer one and is left out."""
    known = {field.name for field in fields(RunSpec)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stored.items()
        if name in known
    }
    values["authenticator"] = Authenticator(values["authenticator"])
    return RunSpec(**values)
