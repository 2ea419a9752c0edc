"""Looks of the watch, made when a test wants them."""

from datetime import timedelta

from tests.support.installation import DemoSite, Installation, shown
from tests.support.waiting import until

IN_THE_WINDOW = timedelta(days=65)
"""Of 90: the window opens after 60, certpilot renews after 75."""


def look_now(certpilot: Installation, site: DemoSite) -> None:
    """Make the site's look due, and wait until it was made."""
    with certpilot.conn.transaction():
        certpilot.conn.execute(
            "update site set next_check_at = certpilot_now() where site_id = %s", (site.site_id,)
        )
    planned = "select next_check_at > certpilot_now() + interval '2 minutes' from site where site_id = %s"
    until(
        lambda: certpilot.conn.execute(planned, (site.site_id,)).fetchone() == (True,),
        what="a look",
        seconds=40,
    )


def wait_until_shown(site: DemoSite, serial: int, *, gone: bool = False) -> None:
    """Wait for nginx's new workers: the old ones answer for a moment after a reload."""

    def is_shown() -> bool:
        certificate = shown(site.server, site.domain)
        return certificate is not None and certificate.serial_number == serial

    until(lambda: is_shown() is not gone, what="nginx's new workers")
