"""The redirect behind Cloudflare: put in where the server is reached over HTTPS, and nowhere else."""

from types import MappingProxyType

import pytest

from contracts.codes import Code
from workers.core.preflight.observed import Hop, Probe, ProbeError
from workers.core.preflight.redirects import Origin, RedirectPlan, origin_of, plan_redirect

SHOP, WWW = "shop.example", "www.shop.example"
PATH = "/.well-known/acme-challenge/t.d"


def folder(
    location: str = "", *, name: str = SHOP, status: int = 301, error: ProbeError | None = None
) -> Probe:
    """The answer to the question for a folder, over HTTPS."""
    headers = {"location": location, "server": "cloudflare"}
    return Probe(
        name, "192.0.2.9", None, error, (Hop(f"https://{name}{PATH}", "192.0.2.9", status),), MappingProxyType(headers)
    )  # fmt: skip


def over_https(name: str = SHOP) -> Probe:
    return folder(f"https://{name}{PATH}/", name=name)


def over_http(name: str = SHOP) -> Probe:
    return folder(f"http://{name}{PATH}/", name=name)


def visit(name: str = SHOP, *, to_https: bool = False, error: ProbeError | None = None) -> Probe:
    hops = (Hop(f"http://{name}/", "192.0.2.9", 200),)
    if to_https:
        hops = (Hop(f"http://{name}/", "192.0.2.9", 301), Hop(f"https://{name}/", "192.0.2.9", 200))
    return Probe(name, "192.0.2.9", None, error, hops, MappingProxyType({"server": "cloudflare"}))


def plan(
    *folders: Probe, visits: tuple[Probe, ...] = (visit(),), proxied: tuple[str, ...] = (SHOP,)
) -> RedirectPlan:
    names = tuple(dict.fromkeys((SHOP, *(v.name for v in visits))))
    return plan_redirect(names, proxied, visits=visits, folders=folders)


@pytest.mark.parametrize(
    ("answer", "origin"),
    [
        (over_https(), Origin.HTTPS),
        (over_http(), Origin.HTTP),
        # Mode Off: Cloudflare itself sends visitors back to HTTP, the path as it was.
        (folder(f"http://{SHOP}{PATH}"), Origin.HTTP),
        (folder(f"{PATH}/"), Origin.UNKNOWN),  # absolute_redirect off
        (folder(f"https://{SHOP}/login"), Origin.UNKNOWN),  # an application that redirects everybody
        (folder(f"https://{WWW}{PATH}/"), Origin.UNKNOWN),
        (folder(status=200), Origin.UNKNOWN),
        (folder(status=404), Origin.UNKNOWN),
        (folder(status=526), Origin.UNKNOWN),
        (folder(error=ProbeError.READ_TIMEOUT), Origin.UNKNOWN),
    ],
)  # fmt: skip
def test_scheme_of_the_servers_own_redirect_tells_how_it_is_reached(answer: Probe, origin: Origin) -> None:
    assert origin_of(answer) is origin


def test_redirect_is_put_in_where_cloudflare_speaks_https_to_the_server() -> None:
    assert plan(over_https()) == RedirectPlan(add=(SHOP,))


def test_flexible_stays_without_and_is_told_with_the_setting_to_change() -> None:
    found = plan(over_http())
    assert (found.add, found.left_out) == ((), ())
    assert found.problem
    assert (found.problem.code, found.problem.names) == (Code.CLOUDFLARE_FLEXIBLE_LOOP, (SHOP,))
    assert "In Cloudflare set SSL/TLS to Full (strict)." in found.problem.message


def test_flexible_is_told_also_where_cloudflare_redirects_by_itself() -> None:
    found = plan(over_http(), visits=(visit(to_https=True),))
    assert found.problem
    assert found.problem.code is Code.CLOUDFLARE_FLEXIBLE_LOOP


def test_name_that_could_not_be_told_stays_without_and_nothing_is_called_wrong() -> None:
    assert plan(folder(status=404)) == plan() == RedirectPlan(left_out=(SHOP,))


def test_visitors_who_are_led_to_https_already_need_no_redirect() -> None:
    assert plan(over_https(), visits=(visit(to_https=True),)) == RedirectPlan()


def test_circle_that_visitors_meet_already_is_told_and_nothing_is_added() -> None:
    found = plan(over_https(), visits=(visit(error=ProbeError.LOOP), visit(WWW)))
    assert found.add == ()
    assert found.problem
    assert found.problem.code is Code.CLOUDFLARE_FLEXIBLE_LOOP


def test_name_of_the_same_certificate_that_is_served_directly_gets_its_redirect() -> None:
    found = plan(over_http(), visits=(visit(), visit(WWW)))
    assert found.add == (WWW,)
    assert found.problem
    assert found.problem.names == (SHOP,)
