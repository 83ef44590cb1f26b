"""The SDK: why an expert is chosen, an answer within limits, and what the journal says of it."""

import os

from gateway import Client

PROMPT = "Is a whale a fish? Answer yes or no."

with Client(os.environ.get("THALAMUS_URL", "http://127.0.0.1:8080")) as client:
    decision = client.route(PROMPT)
    for candidate in decision.candidates:
        print(candidate.expert, "eligible" if candidate.eligible else "excluded", candidate.reason)

    answer = client.chat(PROMPT, router={"max_latency_ms": 60_000})
    print(answer.expert, "answered:", answer.text)

    assert answer.decision_id is not None
    print("recorded as", client.decision(answer.decision_id).reason)
