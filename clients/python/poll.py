"""Polling: ask how the job is. With `?after=<seq>` and `Prefer: wait` the answer comes as soon as there is
something new, so that this costs a request per change at most, and none in between."""

import http.client
import json
import random
import time
import urllib.error
import urllib.request

from job import BASE_URL, CREDENTIALS, TERMINAL, describe_progress, fail, finish, post_job, print_line


def main():
    job = json.load(post_job())
    show(job)
    while job["status"] not in TERMINAL:
        changed = poll(job)
        if changed["seq"] > job["seq"]:
            show(changed)
        job = changed
    finish(job)


def poll(job):
    """The job once it has changed, or as it was when 20 s have passed or the gateway cannot tell."""
    url = f"{BASE_URL}{job['links']['self']}?after={job['seq']}"
    request = urllib.request.Request(url, headers={**CREDENTIALS, "prefer": "wait=20"})
    try:
        return json.load(urllib.request.urlopen(request, timeout=60))
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            fail(json.load(error))
        # Not at the very moment at which all others ask again.
        time.sleep(int(error.headers.get("retry-after", 1)) + random.random())
    except (OSError, http.client.HTTPException):
        time.sleep(1 + random.random())
    return job


def show(job):
    step = job["step"]["name"] if job["step"] else ""
    print_line(job["seq"], job["status"], step, describe_progress(job["progress"] or {}))


if __name__ == "__main__":
    main()
