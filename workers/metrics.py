"""Prometheus metrics of a process, on CERTPILOT_METRICS_ADDR."""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from workers import logs
from workers.settings import HostPort

log = logs.get(__name__)

COMMANDS = Counter("certpilot_commands", "Messages that intake dealt with.")
TURNS = Counter("certpilot_job_turns", "Turns of jobs that ended.", ["result"])
JOBS_HELD = Gauge("certpilot_jobs_held", "Jobs in this runner's hands.")
TURN_SECONDS = Histogram(
    "certpilot_job_turn_seconds",
    "From claim to the end of the turn.",
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 1200),
)
PUBLISHED = Counter("certpilot_published_messages", "Outbox messages that the broker confirmed.", ["lane"])
OUTBOX_MESSAGES = Gauge("certpilot_outbox_messages", "Outbox messages that wait for their confirm.")
OUTBOX_OLDEST_SECONDS = Gauge("certpilot_outbox_oldest_seconds", "Age of the oldest of them.")
EVENTS = Counter("certpilot_events_stored", "Events that were new to the activity feed.")
OFFERED = Counter("certpilot_jobs_offered", "Jobs that the scheduler put on the queue.", ["why"])
LOOKS = Counter("certpilot_watch_looks", "Looks of the watch at sites, by what they saw.", ["sight"])


def serve(address: HostPort) -> None:
    """Serve them in a thread of this process; port 0 takes any free one, which the log names.

    Raises:
        OSError: the address cannot be listened on.
    """
    server, _ = start_http_server(address.port, address.host)
    log.info("metrics.listening", address=str(HostPort(address.host, server.server_port)))
