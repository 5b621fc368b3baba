"""Webhook: the gateway POSTs each event to us. Check that it is the gateway
(https://www.standardwebhooks.com), answer with a 2xx, and expect to get the same event again: an answer may be
lost on its way."""

import base64
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from job import final_job, finish, post_job, print_event

TOLERANCE_S = 300


def read_keys():
    """Several while one is rotated, separated by commas. A gateway with a private Redis keeps its own here."""
    secrets = os.environ.get("QUARTET_WEBHOOK_SECRET") or Path(".quartet/webhook-secret").read_text()
    return [base64.b64decode(secret.strip().replace("whsec_", "")) for secret in secrets.split(",")]


KEYS = read_keys()
seen = {}


def main():
    server = HTTPServer(("127.0.0.1", int(os.environ.get("WEBHOOK_PORT", 0))), Receiver)
    url = f"http://127.0.0.1:{server.server_port}/quartet"
    post_job(callback={"callback_url": url, "callback_events": ["*"]})
    job = None
    while not job:
        server.handle_request()
        job = next(filter(None, map(final_job, seen.values())), None)
    finish(job)


class Receiver(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        event_id, timestamp = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        if not is_genuine(event_id, timestamp, self.headers["webhook-signature"], body):
            print("refused what does not have the signature of our gateway", file=sys.stderr)
            return self.answer(401)
        if event_id not in seen:
            seen[event_id] = json.loads(body)
            print_event(seen[event_id])
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        """Its access log would get between the events."""


def is_genuine(event_id, timestamp, signatures, body):
    """`body` is what was signed: the bytes as they came, before anybody parses them."""
    # An old message that is sent again by someone else has a good signature, too.
    if not (timestamp or "").isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    content = f"{event_id}.{timestamp}.".encode() + body
    expected = [b"v1," + base64.b64encode(hmac.digest(key, content, "sha256")) for key in KEYS]
    given = (signatures or "").encode().split(b" ")
    return any(hmac.compare_digest(one, other) for one in given for other in expected)


if __name__ == "__main__":
    main()
