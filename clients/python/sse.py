"""Server-sent events: the answer to POST is the job's own stream. Should it be cut, GET its events after the
last one seen; nothing is lost or told twice."""

import http.client
import json
import random
import sys
import time
import urllib.error
import urllib.request

from job import BASE_URL, CREDENTIALS, fail, final_job, finish, post_job, print_event


def main():
    accepted = post_job({"accept": "text/event-stream"})
    events_url = f"{BASE_URL}{accepted.headers['location']}/events"
    job, seq = follow(accepted, 0)
    while not job:
        # As the stream's last `retry` would have it: at a time of its own, for others were cut at this moment.
        time.sleep(random.uniform(0.5, 5))
        job, seq = resume(events_url, seq)
    finish(job)


def resume(url, seq):
    headers = {**CREDENTIALS, "accept": "text/event-stream", "last-event-id": str(seq)}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            fail(json.load(error))
        return None, seq
    except OSError:
        return None, seq
    return follow(response, seq)


def follow(response, seq):
    """Prints events until the terminal one or the stream's end; returns its job, if any, and the last seq."""
    try:
        for event in read_events(response):
            seq = event["seq"]
            print_event(event)
            job = final_job(event)
            if job:
                return job, seq
    except (OSError, http.client.HTTPException) as error:
        print(f"the stream was cut: {error!r}", file=sys.stderr)
    return None, seq


def read_events(response):
    """Of https://html.spec.whatwg.org/multipage/server-sent-events.html what it takes to read Quartet's
    streams. An event counts once the blank line after it has come."""
    data = ""
    for line in response:
        field, _, value = line.decode().rstrip("\r\n").partition(":")
        if field == "data":
            data = value
        elif not field and not value and data:
            yield json.loads(data)
            data = ""


if __name__ == "__main__":
    main()
