"""WebSocket: submit and listen on one connection. Should it be cut, connect again and subscribe after the
last event seen; the idempotency key makes it safe to submit again what was not yet accepted."""

import json
import random
import sys
import time
import uuid

from frames import Closed, close, connect, messages, send
from job import BASE_URL, JOB_REQUEST, KEY, fail, final_job, finish, print_event

SUBMIT = {"op": "submit", "ref": 1, "job": JOB_REQUEST, "idempotency_key": str(uuid.uuid4())}


def main():
    state = {"ready": False, "job_id": None, "seq": 0}
    while True:
        try:
            converse(state)
        except (OSError, Closed) as error:
            code = getattr(error, "code", 1006)
            # 4400 to 4499: it would not go better the next time.
            if not state["ready"] or 4400 <= code <= 4499:
                sys.exit(f"closed: {error}")
        # At a time of its own, as others were cut at this moment.
        time.sleep(random.uniform(0.5, 5))


def converse(state):
    """One connection, from its handshake to the job's end; what has to outlive it is in `state`."""
    connection = connect(f"{BASE_URL}/ws", "quartet.v1")
    send(connection, json.dumps({"op": "init", **({"token": KEY} if KEY else {})}))
    for text in messages(connection):
        frame = json.loads(text)
        if frame["op"] == "ready":
            state["ready"] = True
            subscribe = {"op": "subscribe", "ref": 2, "job_id": state["job_id"], "after": state["seq"]}
            send(connection, json.dumps(subscribe if state["job_id"] else SUBMIT))
        elif frame["op"] == "accepted":
            state["job_id"] = frame["job"]["job_id"]
        elif frame["op"] == "event":
            state["seq"] = frame["event"]["seq"]
            print_event(frame["event"])
            job = final_job(frame["event"])
            if job:
                close(connection)
                finish(job)
        elif frame["op"] == "error":
            fail(frame["problem"])


if __name__ == "__main__":
    main()
