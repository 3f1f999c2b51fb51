"""The courier: takes what webhooks are due from Redis and posts it. `python -m worker courier`.

`network` connects, only where it may; `sending` makes one attempt; `courier` is the loop; `process`
wires it. Must not know jobs' engine or RQ. Any number of couriers may run, and may die.
"""
