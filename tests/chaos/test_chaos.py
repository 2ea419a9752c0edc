"""A short run of the chaos driver in every `make test`; `make chaos` does the same for minutes or hours."""

from tests.chaos.drive import Plan, run


def test_random_faults_under_load_leave_nothing_lost_and_nothing_run_twice() -> None:
    seed = 103  # `make chaos` draws others; here a failure has to be the change's and not the dice's
    plan = Plan(
        seed,
        seconds=20,
        commands=40,
        sites=10,
        servers=2,
        fleet={"intake": 2, "runner": 2, "relay": 2, "scheduler": 1, "activity": 1},
        gap_seconds=1.5,
        # A busy machine drains slowly; nothing waits for this long where all is well.
        rest_seconds=150,
        longest_stall_seconds=5,
    )
    said: list[str] = []
    result = run(plan, say=said.append)
    assert not result.complaints, "\n".join([f"seed {seed}", *said, str(result.figures), *result.complaints])
    # A run that did nothing proves nothing.
    assert result.figures["certificates"] >= plan.sites / 2
    assert sum(result.figures["faults"].values()) > 5
