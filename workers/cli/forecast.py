"""`certpilot forecast`: expiries and renewals per day and CA against the limits."""

import argparse
from pathlib import Path

from db import forecast as counts
from db import pool
from workers import settings
from workers.cli import output
from workers.cli.arguments import add_json, positive
from workers.cli.forecast_plot import svg_of
from workers.cli.main import DONE, FAILED
from workers.cli.output import Cell, Column
from workers.cli.trouble import database, in_words
from workers.core.lifetime.forecast import Against, Day, Forecast, forecast
from workers.core.lifetime.future_lifetimes import ca_of
from workers.core.limits.profiles import CaProfile, CaProfiles, builtin_profiles, parse_ca_limits

_DEFAULT_DAYS = 90
_MOST_DAYS = 1100
_COLUMNS = (
    Column("DAY", fixed=True),
    Column("CA"),
    Column("EXPIRE", fixed=True),
    Column("BY SERVERS", fixed=True),
    Column("BY CERTPILOT", fixed=True),
    Column("BUSIEST SERVER"),
)
_LIMIT_COLUMNS = (Column("CA"), Column("LIMIT"), Column("ALLOWED", fixed=True), Column("EXPECTED"))


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add how far to look and what to write."""
    del command
    parser.epilog = (
        "EXPIRE: certificates of today's that end on that day. BY SERVERS: renewals, should every server renew by itself;"
        " BY CERTPILOT: should none."
    )
    parser.add_argument(
        "--days", type=_days, default=_DEFAULT_DAYS, metavar="N",
        help=f"how many days, up to {_MOST_DAYS} (default {_DEFAULT_DAYS})",
    )  # fmt: skip
    parser.add_argument(
        "--lifetime", type=_days, metavar="DAYS",
        help="what if every new certificate lived so long (default: what each CA has announced)",
    )  # fmt: skip
    parser.add_argument("--plot", type=_svg, metavar="FILE.svg", help="also write a picture (SVG)")
    add_json(parser, "an object with `days` and `limits`")


def _days(raw: str) -> int:
    number = positive(raw)
    if number > _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MOST_DAYS}")
    return number


def _svg(raw: str) -> Path:
    if not raw.lower().endswith(".svg"):
        raise argparse.ArgumentTypeError("the picture is an SVG: its name must end in .svg")
    return Path(raw)


def run(command: str, args: argparse.Namespace) -> int:
    """Count, play the days, show them."""
    return in_words(command, lambda: _show(command, args))


def _show(command: str, args: argparse.Namespace) -> int:
    config = settings.load()
    profiles = _profiles(config)
    configured = profiles.of(config.acme_directory_url)
    with database(command) as conn:
        today = pool.now(conn).date()
        ca_by_issuer = {issuer: ca_of(issuer or None, configured.name) for issuer in counts.issuers(conn)}
        groups = counts.groups(conn, ca_by_issuer)
        busiest = counts.busiest_servers(conn, ca_by_issuer, today, args.days)
    by_name: dict[str, CaProfile] = {profile.name: profile for profile in profiles.by_url.values()}
    found = forecast(
        groups, busiest, by_name, today=today, days=args.days, lifetime_days=args.lifetime
    )  # fmt: skip
    if args.json:
        output.write_line(output.json_of({"days": [_of(day) for day in found.days], "limits": found.limits}))
    else:
        _write(found)
    if not found.days:
        output.complain(command, "no certificate yet")
    return _plot(command, args.plot, found) if args.plot else DONE


def _profiles(config: settings.Settings) -> CaProfiles:
    if config.ca_limits_file is None:
        return builtin_profiles()
    try:
        own = parse_ca_limits(config.ca_limits_file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise settings.SettingsError(f"{settings.PREFIX}CA_LIMITS_FILE: {error}") from None
    return builtin_profiles().overridden_by(own)


def _of(day: Day) -> dict[str, object]:
    return {
        "day": day.day.isoformat(),
        "ca": day.ca,
        "expiries": day.expiries,
        "by_servers": day.by_servers,
        "by_certpilot": day.by_certpilot,
        "busiest_server": day.busiest_server or None,
        "busiest_count": day.busiest_count,
    }


def _write(found: Forecast) -> None:
    """Days on which nothing happens are left out."""
    rows = [day for day in found.days if day.expiries or day.by_servers or day.by_certpilot]
    output.write_table(_COLUMNS, [_row(day) for day in rows])
    if found.limits:
        output.write_line()
        output.write_table(_LIMIT_COLUMNS, [_limit_row(one) for one in found.limits])


def _row(day: Day) -> list[str | Cell]:
    busiest = f"{day.busiest_server} ({day.busiest_count:,})" if day.busiest_server else ""
    numbers = (f"{number:>8,}" for number in (day.expiries, day.by_servers, day.by_certpilot))
    return [day.day.isoformat(), day.ca, *numbers, busiest]


def _limit_row(one: Against) -> list[str | Cell]:
    allowed = f"{one.allowed:,} in {output.lasting(one.period_seconds)}"
    if one.exempt:
        would = "" if one.expected is None else f"; would be at most {one.expected:,} for one account"
        return [one.ca, one.limit, allowed, f"renewals of the same names are exempt{would}"]
    if one.expected is None:
        return [one.ca, one.limit, allowed, ""]
    return [
        one.ca, one.limit, allowed,
        Cell(f"{one.expected:,} for one site", "red" if one.expected > one.allowed else "green"),
    ]  # fmt: skip


def _plot(command: str, path: Path, found: Forecast) -> int:
    try:
        path.write_text(svg_of(found.days), encoding="utf-8")
    except OSError as error:
        output.complain(command, f"the picture could not be written: {error}")
        return FAILED
    return DONE
