"""What counts as the same body under one id, and what is a DUPLICATE_ID (DESIGN A.1)."""

import hashlib
import json

import pytest

from contracts.commands import read_command
from contracts.envelope import SetAside
from tests.support.command_documents import ABSENT, HOST_KEY, body, issue, renew


def hash_of(document: object) -> str:
    return read_command(body(document)).body_hash


SAME_AS_ISSUE = {
    "a new time": issue(time="2027-01-01T00:00:00Z"),
    "no time": issue(time=ABSENT),
    "an invalid time, which is refused on its own": issue(time="yesterday"),
    "no subject": issue(subject=ABSENT),
    "unknown fields, which change nothing": issue(traceparent="00-1", data__x=1, data__server__y=2),
    "names in another spelling": issue(
        data__domain="SHOP.Example.com.", data__aliases=["WWW.shop.example.com."]
    ),
    "aliases repeated": issue(
        data__aliases=["www.shop.example.com", "shop.example.com", "WWW.shop.example.com"]
    ),
    "the default port left out": issue(data__server__port=ABSENT),
    "the default port as null": issue(data__server__port=None),
    "the default port as 22.0": issue(data__server__port=22.0),
    "the default user left out": issue(data__server__username=ABSENT),
    "a comment behind the host key": issue(data__server__hostKey=HOST_KEY + " root@web1"),
    "an empty list of public addresses": issue(data__server__publicAddresses=[]),
    "force, which issue does not know": issue(data__force=True),
}

OTHERS = {
    "issue": issue(),
    "renew with the same data": {**issue(), "type": "com.cloudaipilot.ssl.renew.v1"},
    "renew by force": {**issue(data__force=True), "type": "com.cloudaipilot.ssl.renew.v1"},
    "another site": issue(data__siteId="site_124", subject=ABSENT),
    "another domain": issue(data__domain="shop.example.org"),
    "no domain": issue(data__domain=None),
    "a domain that does not normalise": issue(data__domain="shop_1.example.com"),
    "another one that does not": issue(data__domain="shop_2.example.com"),
    "a wildcard": issue(data__domain="*.shop.example.com"),
    "no alias": issue(data__aliases=[]),
    "another alias": issue(data__aliases=["web.shop.example.com"]),
    "one alias more": issue(data__aliases=["www.shop.example.com", "web.shop.example.com"]),
    "a blank alias": issue(data__aliases=["www.shop.example.com", ""]),
    "another host": issue(data__server__host="203.0.113.8"),
    "another port": issue(data__server__port=2222),
    "a port that is text": issue(data__server__port="22"),
    "a port out of range": issue(data__server__port=0),
    "a port that is true": issue(data__server__port=True),
    "another user": issue(data__server__username="deploy"),
    "no host key": issue(data__server__hostKey=ABSENT),
    "a public address": issue(data__server__publicAddresses=["198.51.100.7"]),
    "another requester": issue(data__requestedBy="user_43"),
    "no server": issue(data__server=None),
    "server as text": issue(data__server="203.0.113.7"),
    "data as a list": issue(data=[1]),
    "no data": issue(data=None),
}


@pytest.mark.parametrize("document", SAME_AS_ISSUE.values(), ids=SAME_AS_ISSUE)
def test_the_same_body(document: object) -> None:
    assert hash_of(document) == hash_of(issue())


def test_different_bodies_have_different_hashes() -> None:
    hashes = {hash_of(document): name for name, document in OTHERS.items()}
    assert sorted(hashes.values()) == sorted(OTHERS)


def test_key_order_and_white_space_do_not_matter() -> None:
    turned = dict(reversed(issue().items()))
    turned["data"] = dict(reversed(turned["data"].items()))
    spaced = json.dumps(turned, indent=4).encode()
    assert spaced != body(issue())
    assert read_command(spaced).body_hash == hash_of(issue())


def test_the_order_of_aliases_does_not_matter() -> None:
    one = issue(data__aliases=["a.example.com", "b.example.com"])
    other = issue(data__aliases=["b.example.com", "a.example.com"])
    assert hash_of(one) == hash_of(other)


def test_false_and_null_say_no_more_than_absence_but_zero_is_another_body() -> None:
    assert hash_of(renew(data__force=False)) == hash_of(renew(data__force=None)) == hash_of(renew())
    assert hash_of(renew(data__force=0)) != hash_of(renew())


def test_stored_values_are_not_filled_in() -> None:
    assert hash_of(renew(data__domain="shop.example.com")) != hash_of(renew())
    assert hash_of(renew(data__domain=" ", data__aliases=[], data__server={})) == hash_of(renew())


def test_hashes_stay_as_they_are_from_version_to_version() -> None:
    """The inbox of a running installation holds them: another hash would refuse a redelivered command."""
    canonical = (
        '{"data":{"aliases":["www.shop.example.com"],"domain":"shop.example.com","requestedBy":"user_42",'
        f'"server":{{"host":"203.0.113.7","hostKey":"{HOST_KEY}"}},"siteId":"site_123"}},'
        '"type":"com.cloudaipilot.ssl.issue.v1"}'
    )
    assert hash_of(issue()) == hashlib.sha256(canonical.encode()).hexdigest()
    shortest = '{"data":{"siteId":"site_123"},"type":"com.cloudaipilot.ssl.renew.v1"}'
    assert hash_of(renew()) == hashlib.sha256(shortest.encode()).hexdigest()


def test_what_is_set_aside_has_a_hash_where_its_sender_can_be_read() -> None:
    def hash_aside(document: object) -> str | None:
        with pytest.raises(SetAside) as caught:
            read_command(body(document))
        return caught.value.body_hash

    first = hash_aside(issue(type="x"))
    assert first is not None
    assert hash_aside(issue(type="x", time=ABSENT)) == first
    assert hash_aside(issue(type="x", data__domain="other.example.com")) != first
    assert hash_aside(issue(type="x", id=None)) is None
