"""SSH public host keys as a command names them: `TYPE BASE64` (RFC 4253 6.6, RFC 5656 3.1, RFC 8709 4)."""

import base64
import binascii

HOST_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
"""The types that OpenSSH's servers offer today and paramiko verifies; DSA is gone from both."""

# An RSA key of 16,384 bits, the largest that OpenSSH makes, is 2,760 characters.
_MAX_CHARACTERS = 4096
_ED25519_KEY_BYTES = 32
# Fields after the type: the point for Ed25519, curve and point for ECDSA, exponent and modulus for RSA.
_FIELDS_AFTER_TYPE = {"ssh-ed25519": 1}
_LENGTH_BYTES = 4


def normalise_host_key(raw: str) -> str:
    """Check a public host key and drop its comment.

    Args:
        raw: one line, `TYPE BASE64` with or without a comment behind it, as in `ssh_host_*_key.pub`.

    Returns:
        `TYPE BASE64`, the base64 in its one canonical form.

    Raises:
        ValueError: the type is none of `HOST_KEY_TYPES`, or what follows is not a key of that type.
    """
    if len(raw) > _MAX_CHARACTERS or not raw.isprintable():
        raise ValueError("not one line")
    key_type, _, rest = raw.strip(" ").partition(" ")
    encoded = rest.strip(" ").partition(" ")[0]
    if key_type not in HOST_KEY_TYPES:
        raise ValueError("unknown key type")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    fields = _fields_of(blob)
    if fields[0] != key_type.encode() or len(fields) != 1 + _FIELDS_AFTER_TYPE.get(key_type, 2):
        raise ValueError("the base64 holds no key of that type")
    if key_type == "ssh-ed25519" and len(fields[1]) != _ED25519_KEY_BYTES:
        raise ValueError("an Ed25519 key has 32 bytes")
    if key_type.startswith("ecdsa-") and fields[1] != key_type.removeprefix("ecdsa-sha2-").encode():
        raise ValueError("the key is on another curve")
    return f"{key_type} {base64.b64encode(blob).decode('ascii')}"


def _fields_of(blob: bytes) -> list[bytes]:
    """Split the length-prefixed fields (RFC 4251 5, `string`); they must fill the blob exactly."""
    fields = []
    while blob:
        length = int.from_bytes(blob[:_LENGTH_BYTES], "big")
        field, blob = blob[_LENGTH_BYTES : _LENGTH_BYTES + length], blob[_LENGTH_BYTES + length :]
        if not field or len(field) != length:
            raise ValueError("cut off or empty field")
        fields.append(field)
    if not fields:
        raise ValueError("no field")
    return fields
