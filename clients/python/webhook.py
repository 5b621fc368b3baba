"""Webhook: the gateway POSTs each event to us. Check that it is the gateway (verify.py), answer with a 2xx, and expect
to get the same event again: an answer may be lost on its way. docs/WEBHOOKS.md says more."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from job import final_job, finish, post_job, print_event
from verify import WebhookError, create_verifier

# A gateway with a private Redis keeps its secret in this file.
verify = create_verifier(
    os.environ.get("QUARTET_WEBHOOK_SECRET") or Path(".quartet/webhook-secret").read_text()
)
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
        try:
            event_id = verify(self.headers, body)
        except WebhookError as error:
            print(f"refused: {error}", file=sys.stderr)
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


if __name__ == "__main__":
    main()
