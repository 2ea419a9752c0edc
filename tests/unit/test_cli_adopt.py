"""Which lineage of a server becomes the certificate of a site."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from db.operators import SiteThere
from workers.cli.adopt import decide
from workers.core.model import Certificate
from workers.edges.server.upkeep import Lineage

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CERTIFICATE = Certificate(
    "0a", ("a.example", "b.example"), "CA", NOW - timedelta(days=1), NOW + timedelta(days=89)
)
LINEAGE = Lineage("a.example", "webroot", CERTIFICATE)
SITE = SiteThere("site", "a.example", ["b.example"], "none", removed=False)


def test_valid_certificate_for_all_names_of_a_site_is_taken_over() -> None:
    adoption = decide(LINEAGE, [replace(SITE, site_id="other", domain="o.example"), SITE], NOW)
    assert (adoption.site_id, adoption.adopted, adoption.why) == ("site", True, "taken over")
    assert (adoption.names, adoption.expiry, adoption.authenticator) == (
        ["a.example", "b.example"],
        CERTIFICATE.not_after,
        "webroot",
    )


@pytest.mark.parametrize("status", ["none", "pending", "expired"])
def test_site_without_a_valid_certificate_gets_it(status: str) -> None:
    assert decide(LINEAGE, [replace(SITE, ssl_status=status)], NOW).adopted


@pytest.mark.parametrize(
    ("lineage", "site", "now", "why"),
    [
        (LINEAGE, replace(SITE, ssl_status="active"), NOW, "it is the site's already"),
        (LINEAGE, replace(SITE, removed=True), NOW, "its owner has had it removed"),
        (LINEAGE, SITE, CERTIFICATE.not_after, "it has expired"),
        (LINEAGE, replace(SITE, aliases=["c.example"]), NOW, "it lacks names of the site"),
        (LINEAGE, replace(SITE, domain="c.example", aliases=[]), NOW, "no site on this server has it"),
        (replace(LINEAGE, certificate=None), SITE, NOW, "its certificate cannot be read"),
        (
            replace(LINEAGE, name="a.example-0001"), SITE, NOW,
            "it would do for site site, but is not named a.example, and certbot renames none: issue the site, then",
        ),
    ],
)  # fmt: skip
def test_what_is_not_taken_over_says_why(lineage: Lineage, site: SiteThere, now: datetime, why: str) -> None:
    adoption = decide(lineage, [site], now)
    assert not adoption.adopted
    assert adoption.why.startswith(why)


def test_of_two_sites_of_a_domain_the_one_that_has_it_or_was_not_removed_counts() -> None:
    removed, other = replace(SITE, site_id="removed", removed=True), replace(SITE, site_id="other")
    assert decide(LINEAGE, [removed, other], NOW).site_id == "other"
    active = replace(other, ssl_status="active")
    adoption = decide(LINEAGE, [SITE, active], NOW)
    assert (adoption.site_id, adoption.adopted) == ("other", False)
