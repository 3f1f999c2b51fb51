"""Webhook delivery: claims due deliveries in Redis and POSTs them. `python -m worker courier`.

`guarded_backend` connects, to permitted addresses only; `http_sender` makes one attempt; `courier`
is the loop; `process` wires them. Must not know the engine or RQ. Any number of couriers may run,
and may die.
"""
