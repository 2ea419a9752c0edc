"""What an edge raises: expected failures of the world outside, in our words and with our codes."""

from contracts.codes import Code


class EdgeError(Exception):
    """Something outside did not do what was asked. Names of wrapped libraries and secrets never stand in it.

    Attributes:
        code: row of the catalogue that says who mends it and what follows.
        message: what was found, where, in a sentence for whoever mends it.
        evidence: the lines that decided.
        sent: whether the command may have run on the other side, or may still run. A lost reply proves nothing.
    """

    def __init__(
        self, code: Code, message: str, *, evidence: tuple[str, ...] = (), sent: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.evidence = evidence
        self.sent = sent


class NoAnswerInTimeError(EdgeError):
    """A command did not end in the time that it had; it goes on over there.

    Attributes:
        said: what it had written to its standard output by then.
    """

    def __init__(self, code: Code, message: str, *, said: bytes) -> None:
        super().__init__(code, message, sent=True)
        self.said = said


class AgentBusyError(EdgeError):
    """Another command held the server's agent for 20 s: nothing was done (`AGENT_BUSY`)."""


class RunBusyError(EdgeError):
    """Another run of ours lives on the server: START did nothing, and made no directory (`BUSY`)."""


class AgentFailedError(EdgeError):
    """The agent could not do its part, mostly for want of disk (`ERROR`); how far it came, only a LOOK tells."""


class StaleFenceError(Exception):
    """The server has seen a newer claim: whoever gets this lost its own and must write nothing (`STALE`).

    Attributes:
        fence: the fence that was sent.
        newest: the newest that the server has seen.
    """

    def __init__(self, fence: int, newest: int) -> None:
        super().__init__(f"fence {fence} is older than {newest}, which the server has seen")
        self.fence = fence
        self.newest = newest
