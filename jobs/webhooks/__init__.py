"""Webhooks: telling other people's servers how a job ended, signed, and until they answer.

`addresses, targets` say whom we may call; `sealing` keeps secrets; `retrying` says when again;
`events` is what is sent; `endpoints, outbox, deliveries` are the stores. The courier
(worker/courier) does the sending, api/routes/webhooks.py lets tenants look and steer.
"""
