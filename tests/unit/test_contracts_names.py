"""What is a name for a certificate, what is a host for SSH, and what no name can ever be."""
# ruff: noqa: RUF001 - look-alike characters are what these tests are about

import base64
import re

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from contracts.host_keys import HOST_KEY_TYPES, normalise_host_key
from contracts.names import InvalidName, normalise_address, normalise_host, normalise_name, normalise_names

LABEL_63 = "a" * 63
NAME_253 = ".".join([LABEL_63, LABEL_63, LABEL_63, "b" * 61])

NORMALISED = {
    "a plain name stays": ("shop.example.com", "shop.example.com"),
    "upper case becomes lower case": ("Shop.EXAMPLE.Com", "shop.example.com"),
    "one trailing dot is dropped": ("shop.example.com.", "shop.example.com"),
    "an ideographic full stop is a dot": ("shop。example．com。", "shop.example.com"),
    "a Unicode name becomes A-labels": ("Bücher.example", "xn--bcher-kva.example"),
    "a decomposed name is the same name": ("Bu\u0308cher.example", "xn--bcher-kva.example"),
    "sharp s stays itself, as in IDNA 2008": ("faß.de", "xn--fa-hia.de"),
    "full-width letters become plain ones": ("ｓｈｏｐ.example", "shop.example"),
    "an A-label stays, in lower case": ("XN--Bcher-KVA.example", "xn--bcher-kva.example"),
    "a label of digits is all right": ("24.example.com", "24.example.com"),
    "a label of 63 characters is all right": (f"{LABEL_63}.com", f"{LABEL_63}.com"),
    "253 characters are all right": (NAME_253, NAME_253),
    "253 characters and a trailing dot are all right": (NAME_253 + ".", NAME_253),
    "a Unicode top-level domain is all right": ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
}

REFUSED = {
    "nothing": ("", '"" is blank'),
    "spaces only": ("  ", '"  " is blank'),
    "a dot only": (".", '"." is not a valid host name'),
    "an IPv4 address": ("203.0.113.7", '"203.0.113.7" is or looks like an IP address'),
    "an IPv4 address with a trailing dot": ("203.0.113.7.", '"203.0.113.7." is or looks like an IP address'),
    "an IPv4 address in full width": (
        "２０３.0.113.7",
        '"２０３.0.113.7" is or looks like an IP address',
    ),
    "a short IPv4 address as inet_aton reads it": ("127.1", '"127.1" is or looks like an IP address'),
    "a hexadecimal IPv4 address": ("example.0x7f", '"example.0x7f" is or looks like an IP address'),
    "an IPv6 address": ("2001:db8::1", '"2001:db8::1" is or looks like an IP address'),
    "an IPv6 address in brackets": ("[2001:db8::1]", '"[2001:db8::1]" is or looks like an IP address'),
    "a port": ("shop.example.com:443", '"shop.example.com:443" has a port'),
    "a URL": ("https://shop.example.com", '"https://shop.example.com" is a URL'),
    "a path": ("shop.example.com/a", '"shop.example.com/a" has a path'),
    "a user": ("root@shop.example.com", '"root@shop.example.com" has an @'),
    "an underscore": ("_dmarc.example.com", '"_dmarc.example.com" has an underscore'),
    "one label": ("localhost", '"localhost" has no dot'),
    "one label and a dot": ("localhost.", '"localhost." has no dot'),
    "an empty label": ("shop..example.com", '"shop..example.com" has an empty label'),
    "two trailing dots": ("example.com..", '"example.com.." has an empty label'),
    "a leading dot": (".example.com", '".example.com" is not a valid host name'),
    "a space inside": ("shop example.com", '"shop example.com" has a space'),
    "a space behind": ("example.com ", '"example.com " has a space'),
    "a line break": ("example.com\n", r'"example.com\n" has a space'),
    "a NUL": ("example.com\0", r'"example.com\x00" is not a valid host name'),
    "a lone surrogate": ("\ud800.com", r'"\ud800.com" is not a valid host name'),
    "an option": ("-oProxyCommand=x.com", '"-oProxyCommand=x.com" is not a valid host name'),
    "a leading hyphen": ("-a.example.com", '"-a.example.com" is not a valid host name'),
    "a trailing hyphen": ("a-.example.com", '"a-.example.com" is not a valid host name'),
    "a star inside": ("www.*.com", '"www.*.com" has a * that is not its whole first label'),
    "a star in a label": ("w*.example.com", '"w*.example.com" has a * that is not its whole first label'),
    "a wildcard of an address": ("*.203.0.113.7", '"203.0.113.7" is or looks like an IP address'),
    "two stars": ("*.*.example.com", '"*.example.com" is a wildcard'),
    "a reserved label": ("r3--sn.example.com", '"r3--sn.example.com" is not a valid host name'),
    "a broken A-label": ("xn--zzzzzz.com", '"xn--zzzzzz.com" is not a valid host name'),
    "an emoji": ("i❤.ws", '"i❤.ws" is not a valid host name'),
    "a shell command": ("$(id).example.com", '"$(id).example.com" is not a valid host name'),
    "a label of 64 characters": (
        f"{LABEL_63}a.com",
        f'"{LABEL_63[:60]}…" has a label longer than 63 characters',
    ),
    "254 characters": ("a" + NAME_253, f'"a{LABEL_63[:59]}…" is longer than 253 characters'),
    "a Unicode label that is too long as an A-label": (
        "ü" * 60 + ".com",
        '"' + "ü" * 60 + '…" is not a valid host name',
    ),
    "a megabyte": ("a" * 1_000_000, f'"{LABEL_63[:60]}…" is longer than 253 characters'),
}


@pytest.mark.parametrize(("raw", "name"), NORMALISED.values(), ids=NORMALISED)
def test_normalised(raw: str, name: str) -> None:
    assert normalise_name(raw) == name
    assert normalise_name(name) == name


@pytest.mark.parametrize(("raw", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_and_says_why(raw: str, message: str) -> None:
    with pytest.raises(InvalidName) as refused:
        normalise_name(raw)
    assert str(refused.value) == message


@pytest.mark.parametrize("raw", ["*.example.com", "*.BÜCHER.example."])
def test_a_wildcard_is_told_apart_from_a_wrong_name(raw: str) -> None:
    with pytest.raises(InvalidName) as refused:
        normalise_name(raw)
    assert refused.value.wildcard
    assert refused.value.why == "is a wildcard"


def test_a_wildcard_of_a_wrong_name_is_a_wrong_name() -> None:
    with pytest.raises(InvalidName) as refused:
        normalise_name("*.a_b.com")
    assert not refused.value.wildcard


def test_the_primary_name_comes_first_and_repetitions_are_dropped() -> None:
    names = normalise_names(
        "Shop.example.com", ["www.shop.example.com", "SHOP.example.com.", "www.shop.example.com"]
    )
    assert names == ("shop.example.com", "www.shop.example.com")


HOSTS = {
    "an IPv4 address": ("203.0.113.7", "203.0.113.7"),
    "an IPv6 address in its shortest form": ("2001:DB8:0:0::1", "2001:db8::1"),
    "a name": ("Web1.Example.com.", "web1.example.com"),
    "a name of one label": ("web1", "web1"),
}
NO_HOSTS = [
    "", " ", "-oProxyCommand=touch /tmp/x", "a b", "a;b", "a/b", "user@host", "host:22", "[::1]", "fe80::1%eth0",
    "%h", "$(id)", "`id`", "a\nb", "a\0b", "192.168.001.001", "2130706433", "0x7f000001", "_a", "*", "a" * 254,
]  # fmt: skip


@pytest.mark.parametrize(("raw", "host"), HOSTS.values(), ids=HOSTS)
def test_a_host_is_an_address_or_a_name(raw: str, host: str) -> None:
    assert normalise_host(raw) == host
    assert normalise_host(host) == host


@pytest.mark.parametrize("raw", NO_HOSTS, ids=ascii)
def test_no_host(raw: str) -> None:
    with pytest.raises(InvalidName):
        normalise_host(raw)


@pytest.mark.parametrize("raw", ["203.0.113.0/24", "fe80::1%eth0", "example.com", "１.2.3.4", ""], ids=ascii)
def test_no_address(raw: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        normalise_address(raw)


NASTY = st.text(st.sampled_from("aB1.-_*:/@%[]$`'\"\\ \n\0ü❤。．ａ\u200b\ud800xn"), max_size=30)


@given(NASTY | st.text(max_size=300))
def test_whatever_passes_is_safe_and_already_normal(raw: str) -> None:
    for normalise in (normalise_name, normalise_host):
        try:
            name = normalise(raw)
        except InvalidName:
            continue
        assert normalise(name) == name
        assert len(name) <= 253
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.:-]*[a-z0-9])?|[0-9a-f:]+(\.[0-9.]+)?", name)
        assert normalise is normalise_host or ("." in name and ":" not in name)


ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAIKcwaHcbDsPk3HbQPRwWvX2HXn1dyhPuuaVwNWN7Qf6W"


def blob(*fields: bytes) -> str:
    return base64.b64encode(b"".join(len(f).to_bytes(4, "big") + f for f in fields)).decode()


P256 = blob(b"ecdsa-sha2-nistp256", b"nistp256", b"\x04" + b"p" * 64)
KEYS = {
    "ed25519": (f"ssh-ed25519 {ED25519}", f"ssh-ed25519 {ED25519}"),
    "ed25519 with a comment": (f"ssh-ed25519 {ED25519} root@web 1", f"ssh-ed25519 {ED25519}"),
    "ed25519 with spaces around": (f" ssh-ed25519   {ED25519} ", f"ssh-ed25519 {ED25519}"),
    "ecdsa": (f"ecdsa-sha2-nistp256 {P256}", f"ecdsa-sha2-nistp256 {P256}"),
    "rsa": (
        f"ssh-rsa {blob(b'ssh-rsa', b'e', b'n' * 257)}",
        f"ssh-rsa {blob(b'ssh-rsa', b'e', b'n' * 257)}",
    ),
}
NO_KEYS = {
    "nothing": "",
    "a type only": "ssh-ed25519",
    "base64 only": ED25519,
    "DSA": f"ssh-dss {blob(b'ssh-dss', b'p', b'q', b'g', b'y')}",
    "a certificate": f"ssh-ed25519-cert-v01@openssh.com {ED25519}",
    "not base64": "ssh-ed25519 AAAA!",
    "base64 without its padding": f"ssh-rsa {blob(b'ssh-rsa', b'e', b'nn').rstrip('=')}",
    "another type inside": f"ssh-rsa {ED25519}",
    "another curve inside": f"ecdsa-sha2-nistp256 {blob(b'ecdsa-sha2-nistp256', b'nistp384', b'p')}",
    "cut off": f"ssh-ed25519 {ED25519[:-4]}",
    "a byte too many": f"ssh-ed25519 {ED25519[:-1]}WAA=",
    "an Ed25519 key of 31 bytes": f"ssh-ed25519 {blob(b'ssh-ed25519', b'k' * 31)}",
    "a field that is cut off": f"ssh-rsa {blob(b'ssh-rsa', b'e', b'n' * 255 + b'mmm')[:-4]}",
    "an empty field": f"ssh-rsa {blob(b'ssh-rsa', b'', b'n')}",
    "a field too many": f"ssh-rsa {blob(b'ssh-rsa', b'e', b'n', b'd')}",
    "a length without its field": f"ssh-rsa {base64.b64encode(b'ssh-rsa').decode()}",
    "two lines": f"ssh-ed25519 {ED25519}\nssh-rsa AAAA",
    "a known_hosts line": f"web.example.com ssh-ed25519 {ED25519}",
    "non-ASCII base64": "ssh-ed25519 ÄÄÄÄ",
    "a megabyte": "ssh-rsa " + "A" * 1_000_000,
}  # fmt: skip


@pytest.mark.parametrize(("raw", "key"), KEYS.values(), ids=KEYS)
def test_a_host_key_is_type_and_base64(raw: str, key: str) -> None:
    assert normalise_host_key(raw) == key


@pytest.mark.parametrize("raw", NO_KEYS.values(), ids=NO_KEYS)
def test_no_host_key(raw: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        normalise_host_key(raw)


@pytest.mark.parametrize("key_type", HOST_KEY_TYPES)
def test_paramiko_reads_every_type_that_is_accepted(key_type: str) -> None:
    """Real keys: whatever passes here must not fail later inside the SSH library."""
    curves = {"nistp256": ec.SECP256R1(), "nistp384": ec.SECP384R1(), "nistp521": ec.SECP521R1()}
    private = (
        ed25519.Ed25519PrivateKey.generate() if key_type == "ssh-ed25519"
        else rsa.generate_private_key(65537, 2048) if key_type == "ssh-rsa"
        else ec.generate_private_key(curves[key_type.rpartition("-")[2]])
    )  # fmt: skip
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert normalise_host_key(line + " comment") == line
    key = paramiko.PKey.from_type_string(key_type, base64.b64decode(line.split()[1]))
    assert key.get_base64() == line.split()[1]
