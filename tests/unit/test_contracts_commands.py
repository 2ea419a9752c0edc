"""Reading commands: every rule of DESIGN A.1, each message to the letter."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import BaseModel

from contracts.codes import Code
from contracts.command_models import EXPECTED, IssueData, RemoveData, RenewData, ServerData
from contracts.commands import (
    CommandKind,
    IssueSSL,
    ReadCommand,
    RenewSSL,
    ServerRef,
    build_command,
    read_command,
)
from contracts.envelope import Envelope
from tests.support.command_documents import ABSENT, HOST_KEY, body, issue, renew


def read(document: object) -> ReadCommand:
    return read_command(body(document), "application/cloudevents+json", None)


def test_the_example_of_the_contract() -> None:
    command = read(issue())
    assert command == ReadCommand(
        source="/sites",
        command_id="6f1c0c0e",
        site_id="site_123",
        kind=CommandKind.ISSUE,
        body_hash=command.body_hash,
        domain="shop.example.com",
        command=IssueSSL(
            site_id="site_123",
            domain="shop.example.com",
            aliases=("www.shop.example.com",),
            server=ServerRef("203.0.113.7", 22, "root", HOST_KEY, ()),
            requested_by="user_42",
        ),
        rejection=None,
    )
    assert len(command.body_hash) == 64


SERVER = ServerRef("203.0.113.7", host_key=HOST_KEY)
ISSUED = IssueSSL("site_123", "shop.example.com", ("www.shop.example.com",), SERVER, "user_42")

ACCEPTED = {
    "envelope attributes that are optional may be missing": (
        issue(subject=ABSENT, time=ABSENT, datacontenttype=ABSENT), ISSUED),
    "null attributes are absent (CloudEvents JSON format 2.2)": (
        issue(subject=None, time=None, datacontenttype=None), ISSUED),
    "unknown fields are ignored at every level": (
        issue(traceparent="00-1", data__x={"y": [1]}, data__server__z=None), ISSUED),
    "a time with nanoseconds and an offset": (issue(time="2026-11-24T12:00:00.123456789+02:00"), ISSUED),
    "a leap second": (issue(time="2016-12-31T23:59:60Z"), ISSUED),
    "a data content type with a charset": (issue(datacontenttype="application/json; charset=utf-8"), ISSUED),
    "a structured data content type": (issue(datacontenttype="application/vnd.sites+json"), ISSUED),
    "names are normalised and repetitions dropped": (
        issue(data__domain="Shop.Example.com.",
              data__aliases=["WWW.shop.example.com", "www.shop.example.com.", "shop.example.com"]), ISSUED),
    "aliases keep their order": (
        issue(data__aliases=["b.example.com", "a.example.com"]),
        IssueSSL("site_123", "shop.example.com", ("b.example.com", "a.example.com"), SERVER, "user_42")),
    "aliases, port, username, hostKey and requestedBy are optional": (
        issue(data__aliases=ABSENT, data__requestedBy=ABSENT, data__server={"host": "203.0.113.7"}),
        IssueSSL("site_123", "shop.example.com", (), ServerRef("203.0.113.7"))),
    "null means absent": (
        issue(data__aliases=None, data__requestedBy=None,
              data__server={"host": "203.0.113.7", "port": None, "username": None, "hostKey": None,
                            "publicAddresses": None}),
        IssueSSL("site_123", "shop.example.com", (), ServerRef("203.0.113.7"))),
    "an empty list of aliases": (
        issue(data__aliases=[]), IssueSSL("site_123", "shop.example.com", (), SERVER, "user_42")),
    "a port that a language writes as 2222.0": (
        issue(data__server={"host": "web1", "port": 2222.0, "username": "deploy"}, data__aliases=[]),
        IssueSSL("site_123", "shop.example.com", (), ServerRef("web1", 2222, "deploy"), "user_42")),
    "an IPv6 server, public addresses in their shortest form, each once": (
        issue(data__aliases=[], data__server={
            "host": "2001:DB8::0:1", "publicAddresses": ["198.51.100.7", "2001:db8:0::2", "2001:DB8::2"]}),
        IssueSSL("site_123", "shop.example.com", (),
                 ServerRef("2001:db8::1", public_addresses=("198.51.100.7", "2001:db8::2")), "user_42")),
    "a host key with a comment": (
        issue(data__server__hostKey=HOST_KEY + " root@web1"), ISSUED),
    "100 names": (
        issue(data__aliases=[f"a{number}.example.com" for number in range(99)]),
        IssueSSL("site_123", "shop.example.com", tuple(f"a{number}.example.com" for number in range(99)),
                 SERVER, "user_42")),
    "100 names and many repetitions": (
        issue(data__aliases=["www.shop.example.com"] * 300), ISSUED),
    "a site id with every character it may have": (
        issue(subject=ABSENT, data__siteId="A-z_0.9:" + "x" * 120),
        IssueSSL("A-z_0.9:" + "x" * 120, "shop.example.com", ("www.shop.example.com",), SERVER, "user_42")),
    "force is not a field of issue, so it is ignored": (issue(data__force="yes"), ISSUED),
    "renew: nothing but the site": (renew(), RenewSSL("site_123")),
    "renew: null is what is stored": (
        renew(data__domain=None, data__aliases=None, data__server=None, data__force=None), RenewSSL("site_123")),
    "renew: blank is what is stored": (
        renew(data__domain=" ", data__aliases="", data__server=""), RenewSSL("site_123")),
    "renew: empty is what is stored": (renew(data__aliases=[], data__server={}), RenewSSL("site_123")),
    "renew: everything stated": (
        renew(data__domain="Shop.example.com", data__aliases=["www.shop.example.com"],
              data__server={"host": "203.0.113.7", "hostKey": HOST_KEY}, data__force=True, data__requestedBy="u"),
        RenewSSL("site_123", "shop.example.com", ("www.shop.example.com",), SERVER, "u", force=True)),
}  # fmt: skip


@pytest.mark.parametrize(("document", "command"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(document: object, command: IssueSSL | RenewSSL) -> None:
    result = read(document)
    assert result.rejection is None
    assert result.command == command


SITE_ID = "data.siteId must be a string of 1 to 128 of the characters A-Z a-z 0-9 . _ : -, not "
ALIASES = "data.aliases must be a list of host names, at most 100 together with the domain, not "
HOST = "data.server.host must be an IP address or a host name, not "
PORT = "data.server.port must be a whole number from 1 to 65535, not "
USERNAME = "data.server.username must be a user name: a-z or _, then at most 31 of a-z 0-9 _ -, not "
KEY = (
    "data.server.hostKey must be a public host key, TYPE BASE64, of type ssh-ed25519, ecdsa-sha2-nistp256,"
    " ecdsa-sha2-nistp384, ecdsa-sha2-nistp521, ssh-rsa, not "
)
ADDRESSES = "data.server.publicAddresses must be a list of at most 64 IP addresses, not "
REQUESTER = "data.requestedBy must be a string of at most 256 characters without control characters, not "
TIME = "time must be a time as in RFC 3339, like 2026-11-24T10:00:00Z, not "

INVALID_REQUESTS = {
    "subject of another site": (issue(subject="site_9"), 'subject must be the same as data.siteId, not "site_9".'),
    "subject not a string": (issue(subject=5), "subject must be the same as data.siteId, not 5."),
    "an empty subject": (issue(subject=""), 'subject must be the same as data.siteId, not "".'),
    "time not RFC 3339": (issue(time="24.11.2026"), TIME + '"24.11.2026".'),
    "time without a zone": (issue(time="2026-11-24T10:00:00"), TIME + '"2026-11-24T10:00:00".'),
    "time a number": (issue(time=1790000000), TIME + "1790000000."),
    "time on no day": (issue(time="2026-02-30T10:00:00Z"), TIME + '"2026-02-30T10:00:00Z".'),
    "data of another content type": (
        issue(datacontenttype="application/xml"), 'datacontenttype must be application/json, not "application/xml".'),
    "no data": (issue(data=ABSENT), "data must be an object, not null."),
    "data null": (issue(data=None), "data must be an object, not null."),
    "data a list": (issue(data=[1]), "data must be an object, not a list of 1."),
    "data as text": (issue(data='{"siteId": "site_123"}'), 'data must be an object, not "{"siteId": "site_123"}".'),
    "no siteId": (
        issue(data__siteId=ABSENT),
        "data.siteId is missing; it must be a string of 1 to 128 of the characters A-Z a-z 0-9 . _ : -."),
    "siteId null": (issue(data__siteId=None), SITE_ID + "null."),
    "siteId a number": (issue(data__siteId=123), SITE_ID + "123."),
    "siteId empty": (issue(data__siteId=""), SITE_ID + '"".'),
    "siteId with a slash": (issue(data__siteId="a/b"), SITE_ID + '"a/b".'),
    "siteId with a line break": (issue(data__siteId="site_123\n"), SITE_ID + '"site_123\\n".'),
    "siteId of 129 characters": (issue(data__siteId="x" * 129), SITE_ID + f'"{"x" * 60}…".'),
    "domain a number": (issue(data__domain=5), "data.domain must be a host name or null, not 5."),
    "domain a list": (issue(data__domain=["a.com"]), "data.domain must be a host name or null, not a list of 1."),
    "aliases as text": (issue(data__aliases="a.com"), ALIASES + '"a.com".'),
    "aliases as blank text: only renew has stored ones": (issue(data__aliases=""), ALIASES + '"".'),
    "aliases an object": (issue(data__aliases={"a.com": 1}), ALIASES + "an object."),
    "101 names": (issue(data__aliases=[f"a{n}.example.com" for n in range(100)]), ALIASES + "a list of 100."),
    "101 names, some of them wrong": (
        issue(data__aliases=[f"a_{n}.example.com" for n in range(100)]), ALIASES + "a list of 100."),
    "a list of aliases beyond reading": (issue(data__aliases=["a.com"] * 1001), ALIASES + "a list of 1001."),
    "an alias null": (issue(data__aliases=["a.com", None]), "data.aliases[1] must be a host name, not null."),
    "an alias a number": (issue(data__aliases=[7]), "data.aliases[0] must be a host name, not 7."),
    "no server": (
        issue(data__server=ABSENT), "data.server is missing; it must be an object with the server's host."),
    "server null": (
        issue(data__server=None), "data.server must be an object with the server's host, not null."),
    "server as text": (
        issue(data__server="203.0.113.7"),
        'data.server must be an object with the server\'s host, not "203.0.113.7".'),
    "an empty server": (
        issue(data__server={}), "data.server.host is missing; it must be an IP address or a host name."),
    "renew with a server as text": (
        renew(data__server="web1"), 'data.server must be an object with the server\'s host, not "web1".'),
    "renew with a server without host": (
        renew(data__server={"port": 22}),
        "data.server.host is missing; it must be an IP address or a host name."),
    "host null": (issue(data__server__host=None), HOST + "null."),
    "host blank": (issue(data__server__host=" "), HOST + '" ".'),
    "host an option": (issue(data__server__host="-oProxyCommand=id"), HOST + '"-oProxyCommand=id".'),
    "host with a user": (issue(data__server__host="root@web1"), HOST + '"root@web1".'),
    "host with a port": (issue(data__server__host="web1:22"), HOST + '"web1:22".'),
    "host with a command": (issue(data__server__host="web1;id"), HOST + '"web1;id".'),
    "host with a line break": (issue(data__server__host="web1\nid"), HOST + '"web1\\nid".'),
    "port as text": (issue(data__server__port="22"), PORT + '"22".'),
    "port true": (issue(data__server__port=True), PORT + "true."),
    "port 0": (issue(data__server__port=0), PORT + "0."),
    "port 65536": (issue(data__server__port=65536), PORT + "65536."),
    "port a fraction": (issue(data__server__port=22.5), PORT + "22.5."),
    "port huge": (issue(data__server__port=10**100), PORT + "a number too long to show."),
    "username upper case": (issue(data__server__username="Root"), USERNAME + '"Root".'),
    "username an option": (issue(data__server__username="-l"), USERNAME + '"-l".'),
    "username empty": (issue(data__server__username=""), USERNAME + '"".'),
    "username with a line break": (issue(data__server__username="root\n"), USERNAME + '"root\\n".'),
    "username of 33 characters": (issue(data__server__username="a" * 33), USERNAME + f'"{"a" * 33}".'),
    "hostKey blank": (issue(data__server__hostKey=""), KEY + '"".'),
    "hostKey a fingerprint": (issue(data__server__hostKey="SHA256:abc"), KEY + '"SHA256:abc".'),
    "hostKey of another type": (issue(data__server__hostKey="ssh-dss AAAA"), KEY + '"ssh-dss AAAA".'),
    "hostKey whose inside is another type": (
        issue(data__server__hostKey=HOST_KEY.replace("ssh-ed25519", "ssh-rsa")), KEY + f'"ssh-rsa {HOST_KEY[12:64]}…".'),
    "publicAddresses as text": (issue(data__server__publicAddresses="1.2.3.4"), ADDRESSES + '"1.2.3.4".'),
    "a public address that is a name": (
        issue(data__server__publicAddresses=["198.51.100.7", "a.com"]),
        'data.server.publicAddresses[1] must be an IP address, not "a.com".'),
    "65 public addresses": (issue(data__server__publicAddresses=["1.2.3.4"] * 65), ADDRESSES + "a list of 65."),
    "requestedBy a number": (issue(data__requestedBy=42), REQUESTER + "42."),
    "requestedBy with a NUL": (issue(data__requestedBy="a\0"), REQUESTER + r'"a\x00".'),
    "requestedBy with a lone surrogate": (issue(data__requestedBy="\ud800"), REQUESTER + r'"\ud800".'),
    "requestedBy of 257 characters": (issue(data__requestedBy="u" * 257), REQUESTER + f'"{"u" * 60}…".'),
    "force as text": (renew(data__force="true"), 'data.force must be true or false, not "true".'),
    "force a number": (renew(data__force=1), "data.force must be true or false, not 1."),
    "several faults: the envelope's comes first": (
        issue(time="x", data__siteId=None, data__server__port="22"), TIME + '"x".'),
    "several faults: then the data's, from the top": (
        issue(subject="y", data__aliases=5, data__server__port="22"), ALIASES + "5."),
}  # fmt: skip


@pytest.mark.parametrize(("document", "message"), INVALID_REQUESTS.values(), ids=INVALID_REQUESTS)
def test_invalid_request_names_the_field_and_what_was_expected(document: object, message: str) -> None:
    result = read(document)
    assert result.command is None
    assert result.rejection is not None
    assert (result.rejection.code, result.rejection.message) == (Code.INVALID_REQUEST, message)
    assert message.startswith(result.rejection.field + " ")


def paths_of(model: type[BaseModel], path: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        here = f"{path}{field.alias or name}"
        yield here
        if "list[" in str(field.annotation) or "list[" in str(field.metadata):
            yield f"{here}[]"
    if "server" in model.model_fields:
        yield from paths_of(ServerData, f"{path}server.")


def test_every_field_has_words_for_its_rejection() -> None:
    paths = {
        *paths_of(Envelope, ""),
        *paths_of(IssueData, "data."),
        *paths_of(RenewData, "data."),
        *paths_of(RemoveData, "data."),
    }
    assert paths == set(EXPECTED)


NAME_REJECTIONS = {
    "domain absent": (issue(data__domain=ABSENT), Code.NO_DOMAIN, "Site site_123 has no domain.", "data.domain"),
    "domain null": (issue(data__domain=None), Code.NO_DOMAIN, "Site site_123 has no domain.", "data.domain"),
    "domain blank": (issue(data__domain=" \t"), Code.NO_DOMAIN, "Site site_123 has no domain.", "data.domain"),
    "no domain comes before a wrong alias": (
        issue(data__domain=None, data__aliases=["a_b"]), Code.NO_DOMAIN, "Site site_123 has no domain.", "data.domain"),
    "domain an address": (
        issue(data__domain="203.0.113.7"), Code.INVALID_DOMAIN,
        'The domain "203.0.113.7" is or looks like an IP address.', "data.domain"),
    "domain an option": (
        issue(data__domain="--config=/x.y"), Code.INVALID_DOMAIN,
        'The domain "--config=/x.y" has a path.', "data.domain"),
    "a blank alias": (
        issue(data__aliases=["www.shop.example.com", ""]), Code.INVALID_DOMAIN,
        'The alias "" is blank.', "data.aliases[1]"),
    "an alias that is an address": (
        issue(data__aliases=["2001:db8::1"]), Code.INVALID_DOMAIN,
        'The alias "2001:db8::1" is or looks like an IP address.', "data.aliases[0]"),
    "a wildcard domain": (
        issue(data__domain="*.example.com"), Code.WILDCARD_NEEDS_DNS,
        'The domain "*.example.com" is a wildcard.', "data.domain"),
    "a wildcard alias": (
        issue(data__aliases=["*.example.com"]), Code.WILDCARD_NEEDS_DNS,
        'The alias "*.example.com" is a wildcard.', "data.aliases[0]"),
    "the domain is judged before the aliases": (
        issue(data__domain="a_b.com", data__aliases=["*.example.com"]), Code.INVALID_DOMAIN,
        'The domain "a_b.com" has an underscore.', "data.domain"),
    "renew without a domain still has its aliases judged": (
        renew(data__aliases=["localhost"]), Code.INVALID_DOMAIN,
        'The alias "localhost" has no dot.', "data.aliases[0]"),
    "a lone surrogate in a name": (
        issue(data__domain="\ud800.com"), Code.INVALID_DOMAIN,
        r'The domain "\ud800.com" is not a valid host name.', "data.domain"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "code", "message", "field"), NAME_REJECTIONS.values(), ids=NAME_REJECTIONS
)
def test_names_are_judged_after_the_request(document: object, code: Code, message: str, field: str) -> None:
    result = read(document)
    assert result.command is None
    assert result.rejection is not None
    assert (result.rejection.code, result.rejection.message, result.rejection.field) == (code, message, field)
    assert result.site_id == "site_123"


def test_a_wrong_field_comes_before_a_missing_domain() -> None:
    result = read(issue(data__domain=None, data__server__port="22"))
    assert result.rejection is not None
    assert result.rejection.code is Code.INVALID_REQUEST


SITES = {
    "data.siteId": (issue(subject=ABSENT, data__server=None), "site_123"),
    "data.siteId before subject": (issue(subject="site_9"), "site_123"),
    "subject, where data has none": (issue(data=None), "site_123"),
    "subject, where data's cannot be a site": (issue(data__siteId=7), "site_123"),
    "none, where neither can be read": (issue(subject=ABSENT, data__siteId="a b"), None),
}


@pytest.mark.parametrize(("document", "site_id"), SITES.values(), ids=SITES)
def test_whom_to_tell_of_a_broken_request(document: object, site_id: str | None) -> None:
    result = read(document)
    assert result.rejection is not None
    assert (result.source, result.command_id, result.site_id) == ("/sites", "6f1c0c0e", site_id)


def test_the_domain_is_told_only_where_it_is_one() -> None:
    assert read(issue(data__domain="SHOP.example.com", data__server=None)).domain == "shop.example.com"
    assert read(issue(data__domain="a_b.com")).domain is None
    assert read(issue(data__domain=7)).domain is None
    assert read(issue(data=None)).domain is None


@pytest.mark.parametrize(
    "command",
    [
        ISSUED,
        IssueSSL("s", "example.org", (), ServerRef("2001:db8::1", 2222, "deploy", None, ("198.51.100.7",))),
        RenewSSL("s"),
        RenewSSL("s", "example.org", ("www.example.org",), SERVER, "alice", force=True),
    ],
)
def test_what_is_built_is_read_back(command: IssueSSL | RenewSSL) -> None:
    sent_at = datetime(2026, 11, 24, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    sent = build_command(command, command_id="1", source="/cli", sent_at=sent_at)
    assert read_command(sent).command == command
    assert json.loads(sent)["time"] == "2026-11-24T10:00:00.000000Z"


def test_an_instant_without_a_zone_is_not_sent() -> None:
    with pytest.raises(ValueError, match="time zone"):
        build_command(RenewSSL("s"), command_id="1", source="/cli", sent_at=datetime(2026, 1, 1))  # noqa: DTZ001
    assert build_command(
        RenewSSL("s"), command_id="1", source="/cli", sent_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
