"""The SDK, complete in this folder: it imports nothing else of the gateway. Its names are `gateway`'s.

errors    what can go wrong
values    what is sent and what comes back, typed
exchange  every decision of a client: requests, retries, the reading of answers; no I/O
schemas   answers in a given shape: what is asked for, and how it is read
batches   files and batches, as `client.files` and `client.batches`
clients   `Client` and `AsyncClient`: the I/O, and nothing else
"""
