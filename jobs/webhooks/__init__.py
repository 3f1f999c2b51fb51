"""Webhooks: signed events of jobs, sent to tenants' servers with retries.

`addresses, ssrf_guard` restrict the targets; `secret_box` encrypts secrets; `retry_schedule` holds
the waits; `events` makes the bodies; `endpoints, outbox, deliveries` are the stores. The courier
(worker/courier) sends the events; api/routes/webhooks.py is the tenants' view and control.
"""
