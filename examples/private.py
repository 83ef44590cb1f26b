"""Keep a prompt on this machine: the policy `private` of private.yaml calls local experts only."""

import os

from gateway import BadRequest, Client

PROMPT = "Summarise in one sentence: Anna Berg, born 1961, is treated for asthma."

with Client(os.environ.get("THALAMUS_URL", "http://127.0.0.1:8080")) as client:
    for candidate in client.route(PROMPT, "auto:private").candidates:
        print(candidate.expert, "eligible" if candidate.eligible else "excluded", candidate.reason)

    answer = client.chat(PROMPT, "auto:private")
    print("answered on this machine by", answer.expert, ":", answer.text)

    try:  # a request can tighten its policy, never loosen it
        client.chat(PROMPT, "auto:private", router={"models": ["hosted"]})
    except BadRequest as error:
        print("refused:", error)
