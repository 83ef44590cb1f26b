"""Ask a panel: the policy `many` of panel.yaml calls three experts at once and returns one answer."""

import os

from gateway import Client

with Client(os.environ.get("THALAMUS_URL", "http://127.0.0.1:8080")) as client:
    answer = client.chat("What is the capital of Australia? One word.", model="auto:many")
    print(answer.routed.plan, "by", answer.expert, ":", answer.text)
    assert answer.decision_id is not None
    print("members:", ", ".join(client.decision(answer.decision_id).plan.experts))
