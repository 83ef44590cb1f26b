"""OpenAI's client against Thalamus: only the base URL differs."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("THALAMUS_URL", "http://127.0.0.1:8080") + "/v1", api_key="anything")

raw = client.chat.completions.with_raw_response.create(
    model="auto", messages=[{"role": "user", "content": "Name three colours."}]
)
print(raw.headers["x-thalamus-expert"], "answered:", raw.parse().choices[0].message.content)

stream = client.chat.completions.create(
    model="auto", messages=[{"role": "user", "content": "Count to three."}], stream=True
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="")
print()
