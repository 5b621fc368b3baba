"""What the four clients share: the job to submit, how to submit it, and how to show what it does."""

import json
import os
import sys
import urllib.error
import urllib.request

BASE_URL = os.environ.get("QUARTET_URL", "http://127.0.0.1:3000")
# Where the gateway asks for one.
KEY = os.environ.get("QUARTET_KEY")
# Who we are, for every call.
CREDENTIALS = {"authorization": f"Bearer {KEY}"} if KEY else {}

ORDER = {
    "order_id": "A-1",
    "items": [{"sku": "tea", "quantity": 2}, {"sku": "cup", "quantity": 1}],
    "amount_cents": 1250,
    "card": "4242",
}
# The job to submit: `<type> <input as JSON>` from the command line, by default an order.
JOB_REQUEST = {
    "type": sys.argv[1] if len(sys.argv) > 1 else "order",
    "input": json.loads(sys.argv[2]) if len(sys.argv) > 2 else ORDER,
}
TERMINAL = ("completed", "failed", "canceled", "expired")


def post_job(headers=None, callback=None):
    """Submits the job and returns the response. Ends the process when it is refused."""
    request = urllib.request.Request(
        f"{BASE_URL}/jobs",
        data=json.dumps({**JOB_REQUEST, **(callback or {})}).encode(),
        headers={**CREDENTIALS, "content-type": "application/json", **(headers or {})},
    )
    try:
        return urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        fail(json.load(error))
    except OSError as error:
        sys.exit(f"{BASE_URL}: {error}")


def fail(problem):
    """Says what is wrong (RFC 9457), and ends the process with 1."""
    lines = [" · ".join(str(problem[key]) for key in ("status", "title", "detail") if key in problem)]
    lines += [f"  {each['path'] or '/'}: {each['message']}" for each in problem.get("errors", [])]
    sys.exit("\n".join(lines))


def print_event(event):
    """Shows an event on a line of its own."""
    print_line(event["seq"], event["type"], describe(event["type"], event["data"]))


def print_line(*parts):
    """Shows what is not empty, on one line, at once."""
    print(*(part for part in parts if part), flush=True)


def describe(event_type, data):
    if event_type == "job.progress":
        return describe_progress(data)
    if event_type == "step.retrying":
        return f"{data['step']}: {data['reason']}, again in {data['delay_ms']} ms"
    return data["step"] if event_type.startswith("step.") else ""


def describe_progress(progress):
    percent = f"{progress['percent']}%" if "percent" in progress else ""
    output = json.dumps(progress["output"], ensure_ascii=False) if "output" in progress else ""
    return " ".join(filter(None, [percent, progress.get("message"), output]))


def final_job(event):
    """The job in its terminal event; None while more events follow."""
    return event["data"] if event["type"] in [f"job.{status}" for status in TERMINAL] else None


def finish(job):
    """Shows how the job ended, and ends the process: with 0 when it completed, with 1 otherwise."""
    completed = job["status"] == "completed"
    print(json.dumps(job["result" if completed else "error"], indent=2, ensure_ascii=False))
    sys.exit(0 if completed else 1)
