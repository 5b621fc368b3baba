"""Verifies webhooks of Quartet, and of whoever else follows Standard Webhooks (https://www.standardwebhooks.com). To be
copied into a receiver: one file, nothing to install, Python 3.9 or later. Only for public keys (whpk_) it needs the
package `cryptography`, as Python itself has no Ed25519.

    verify = create_verifier("whsec_…")
    webhook_id = verify(request.headers, body)  # raises unless the gateway has signed exactly this, just now
"""

import base64
import hmac
import re
import time

# A header with more is no honest one: each would be tried on the whole body.
MAX_SIGNATURES = 16


class WebhookError(Exception):
    """This webhook is not to be trusted: answer with 401, and do nothing else.

    `reason` is missing_header, malformed_header, too_old, too_new or no_match."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


def create_verifier(keys, tolerance_s=300, now=time.time):
    """`keys` are whsec_<base64> (the shared secret) or whpk_<base64> (the gateway's public key); several while one is
    rotated, separated by commas: one that matches is enough. `tolerance_s` is how far the time of a webhook may be from
    now: an old one may be a replay.

    Returns what verifies a webhook, given its headers (a mapping; the case of names does not matter) and its body (the
    bytes as they came, before anybody parses them). That returns the webhook-id, which is the same when the same
    webhook comes again, or raises WebhookError. A ValueError names the position of a key that is none."""
    matchers = [read_key(key.strip(), position) for position, key in enumerate(keys.split(","), 1)]

    def verify(headers, body):
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise TypeError("Expected the body as it came, in bytes, got what somebody has decoded")
        webhook_id = read_header(headers, "webhook-id")
        timestamp = read_header(headers, "webhook-timestamp")
        signatures = read_header(headers, "webhook-signature").split(" ")[:MAX_SIGNATURES]
        # What is signed has full stops between its parts: an id must not reach into the next one.
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", webhook_id):
            raise WebhookError("malformed_header", 'Expected a webhook-id of letters, digits, ".", "_" and "-"')
        check_time(timestamp)
        content = f"{webhook_id}.{timestamp}.".encode() + bytes(body)
        if any(matches(content, signatures) for matches in matchers):
            return webhook_id
        raise WebhookError("no_match", "Expected a signature by one of our keys over this very body, got none")

    def check_time(timestamp):
        if not re.fullmatch(r"[0-9]{1,12}", timestamp):
            raise WebhookError("malformed_header", "Expected a webhook-timestamp in whole seconds")
        age_s = int(now()) - int(timestamp)
        if age_s > tolerance_s:
            raise WebhookError("too_old", f"Expected a webhook at most {tolerance_s} s old, got {age_s} s")
        if age_s < -tolerance_s:
            raise WebhookError("too_new", f"Expected a webhook at most {tolerance_s} s ahead, got {-age_s} s")

    return verify


def read_header(headers, name):
    values = [value for key, value in headers.items() if key.lower() == name]
    if len(values) > 1:
        raise WebhookError("malformed_header", f"Expected one {name}, got {len(values)}")
    if not values or not values[0]:
        raise WebhookError("missing_header", f"Expected a {name} header, got none")
    return values[0]


def read_key(key, position):
    prefix, _, encoded = key.partition("_")
    data = decode(encoded)
    if prefix == "whsec" and data:
        return match_secret(data)
    if prefix == "whpk" and data and len(data) == 32:
        return match_public_key(data)
    raise ValueError(f"Expected whsec_<base64> or whpk_<base64 of 32 bytes> as key {position}, got something else")


def match_secret(secret):
    def matches(content, signatures):
        expected = b"v1," + base64.b64encode(hmac.digest(secret, content, "sha256"))
        # In constant time, lest somebody guess a signature byte by byte.
        return any(hmac.compare_digest(given.encode(errors="replace"), expected) for given in signatures)

    return matches


def match_public_key(data):
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise ValueError("Expected the package cryptography, which whpk_ keys need, got none") from None
    key = Ed25519PublicKey.from_public_bytes(data)

    def matches(content, signatures):
        return any(is_signed(content, text[len("v1a,") :]) for text in signatures if text.startswith("v1a,"))

    def is_signed(content, encoded):
        try:
            key.verify(decode(encoded) or b"", content)
        except InvalidSignature:
            return False
        return True

    return matches


def decode(encoded):
    """Base64 of the same bytes can be written in several ways: None unless it is the one way with padding."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return data if base64.b64encode(data).decode() == encoded else None
