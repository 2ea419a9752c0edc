"""Logging: one event name and its fields a line, for people (console) or machines (json)."""

import logging
import sys
from typing import Any, Literal

import structlog

_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
# pika and paramiko log each reconnect with a traceback of their own; our edges report the same in one line.
_NOISY = ("pika", "paramiko", "dramatiq.worker", "dramatiq.broker", "psycopg.pool")


def configure(log_format: Literal["console", "json"], *, level: int = logging.INFO) -> None:
    """Send our log and the libraries' to standard error in one form."""
    if log_format == "json":
        # Without locals: one of them may be a URL with its password.
        traces = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last: tuple[Any, ...] = (
            structlog.processors.ExceptionRenderer(traces),
            structlog.processors.JSONRenderer(),
        )
    else:
        last = (
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def get(name: str) -> Any:
    """A logger: `get(__name__).info("lease.taken", job=job_id)`."""
    return structlog.get_logger(name)
