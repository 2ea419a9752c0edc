"""The thin message that tells a runner to look at a job: `{job_id, epoch}` in the envelope that Dramatiq reads.

The envelope is a privileged interface (its options choose delays, retries and callbacks), so only our relay writes it,
and what is not exactly what the relay writes is refused.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from contracts.topology import JOBS_QUEUE
from workers.core.model import JobId, JobKind

ACTOR_NAMES = {
    JobKind.ISSUE: "issue_ssl",
    JobKind.RENEW: "renew_ssl",
    JobKind.REMOVE: "remove_ssl",
    JobKind.CLEANUP: "cleanup_ssl",
}
KINDS = {actor: kind for kind, actor in ACTOR_NAMES.items()}

MAX_BYTES = 4096
"""Ten times what the relay writes; a larger body is not read at all."""

_KEYS = frozenset(
    {"queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"}
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MOST_SHOWN = 100


class MalformedJobMessageError(ValueError):
    """A body on the job queue that our relay did not write. The text names the first thing that is wrong."""


@dataclass(frozen=True, slots=True)
class JobMessage:
    """What a message on the job queue says.

    Attributes:
        kind: which actor runs it.
        job_id: the job to claim.
        epoch: the claim holds only while the job's row has this epoch (DESIGN A.9, replay).
        message_id: the same as in the AMQP property.
    """

    kind: JobKind
    job_id: JobId
    epoch: int
    message_id: str


def encode_job_message(kind: JobKind, job_id: JobId, epoch: int, message_id: str) -> bytes:
    """Write the body for the job queue. The same arguments give the same bytes, so a copy can be told as one."""
    return json.dumps(
        {
            "queue_name": JOBS_QUEUE,
            "actor_name": ACTOR_NAMES[kind],
            "args": [],
            "kwargs": {"job_id": job_id, "epoch": epoch},
            "options": {},
            "message_id": message_id,
            # Dramatiq wants the field; only its AgeLimit reads it, which is off: a job's age is in its row.
            "message_timestamp": 0,
        },
        separators=(",", ":"),
    ).encode()


def decode_job_message(body: bytes) -> JobMessage:
    """Read what `encode_job_message` wrote, and nothing else.

    Raises:
        MalformedJobMessageError: anything at all is not as it was written there.
    """
    envelope = _parse(body)
    kwargs = envelope["kwargs"]
    actor_name, message_id = envelope["actor_name"], envelope["message_id"]
    _require(envelope["queue_name"] == JOBS_QUEUE, f"queue_name is not {JOBS_QUEUE}")
    _require(
        isinstance(actor_name, str) and actor_name in KINDS,
        f"actor_name {_shown(actor_name)} is not one of ours",
    )
    _require(envelope["args"] == [], "args is not an empty list")
    _require(envelope["options"] == {}, "options is not an empty object")
    _require(type(envelope["message_timestamp"]) is int, "message_timestamp is not an integer")
    _require(isinstance(message_id, str) and bool(message_id), "message_id is not a text")
    _require(
        isinstance(kwargs, dict) and kwargs.keys() == {"job_id", "epoch"}, "kwargs is not job_id and epoch"
    )
    job_id, epoch = kwargs["job_id"], kwargs["epoch"]
    _require(isinstance(job_id, str) and _UUID.fullmatch(job_id) is not None, "job_id is not a UUID")
    _require(type(epoch) is int and epoch >= 0, "epoch is not a count")
    return JobMessage(KINDS[actor_name], JobId(job_id), epoch, message_id)


def _parse(body: bytes) -> dict[str, Any]:
    _require(len(body) <= MAX_BYTES, f"{len(body)} bytes are more than the relay ever writes")
    try:
        envelope = json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise MalformedJobMessageError("not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise MalformedJobMessageError("not JSON") from error
    _require(isinstance(envelope, dict), "not a JSON object")
    missing, extra = _KEYS - envelope.keys(), envelope.keys() - _KEYS
    _require(not missing, f"without {', '.join(sorted(missing))}")
    _require(not extra, f"with the unknown {_shown(', '.join(sorted(extra)))}")
    return envelope  # type: ignore[no-any-return]


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise MalformedJobMessageError(f"not a job message of certpilot: {otherwise}")


def _shown(value: object) -> str:
    """Give a foreign value for a log line or header, short and in printable ASCII."""
    return ascii(value)[:_MOST_SHOWN]
