"""The counters kept beside jobs, held against the jobs themselves."""

from __future__ import annotations

import json
from collections import defaultdict

from redis import Redis

from jobs.store import keys

FINAL = {"finished", "failed", "stopped", "canceled"}


def _members(redis: Redis, pattern: str) -> dict[str, list[str]]:
    """The members of every list, set and sorted set of that name."""
    found = {}
    for raw in redis.scan_iter(pattern):
        key = raw.decode()
        match redis.type(key):
            case b"list":
                members = redis.lrange(key, 0, -1)
            case b"set":
                members = redis.smembers(key)
            case _:
                members = redis.zrange(key, 0, -1)
        found[key] = [m.decode() for m in members]
    return found


def books_are_right(redis: Redis) -> None:
    """Quotas, lines, backlogs, deadlines, groups and what is kept agree with the jobs' hashes."""
    jobs = {
        key.decode().removeprefix("rq:job:"): {
            name.decode(): value.decode(errors="replace")
            for name, value in redis.hgetall(key).items()
        }
        for key in redis.scan_iter("rq:job:*")
    }
    open_ = {i: f for i, f in jobs.items() if f["status"] not in FINAL}
    by_tenant: defaultdict[str, set[str]] = defaultdict(set)
    for job_id, fields in open_.items():
        by_tenant[fields["x_tenant"]].add(job_id)
    counted = _members(redis, "pw:tenant:*:open")
    assert {key.split(":")[2]: set(ids) for key, ids in counted.items()} == by_tenant
    for tenant, ids in by_tenant.items():
        assert {i.decode() for i in redis.hkeys(f"pw:tenant:{tenant}:kept")} == ids
    kept = {key.decode().split(":")[2] for key in redis.scan_iter("pw:tenant:*:kept")}
    assert kept <= set(by_tenant)

    waiting = {i for i, f in open_.items() if f["status"] == "queued"}
    lines, asides = _members(redis, "rq:queue:*"), _members(redis, "pw:aside:*")
    places = [i for ids in (*lines.values(), *asides.values()) for i in ids]
    assert sorted(places) == sorted(waiting)
    shares = [i for ids in _members(redis, "pw:line:*").values() for i in ids]
    assert sorted(shares) == sorted(i for ids in lines.values() for i in ids)
    backlog = redis.hmget("pw:backlog:demo", "jobs", "cost")
    assert int(backlog[0] or 0) == len(waiting)
    assert abs(float(backlog[1] or 0) - sum(float(jobs[i]["x_cost"]) for i in waiting)) < 1e-6

    running = {i for i, f in open_.items() if f["status"] == "started"}
    leased = [m.split(":")[0] for ids in _members(redis, "rq:wip:*").values() for m in ids]
    assert sorted(leased) == sorted(running)
    dated = {i for i, f in open_.items() if "x_deadline" in f}
    assert {i.decode() for i in redis.zrange(keys.DEADLINES, 0, -1)} == dated
    for key in redis.scan_iter("pw:group:*:ends"):
        ends = {k.decode(): v.decode() for k, v in redis.hgetall(key).items()}
        left = {i for i, end in ends.items() if i not in {"left", "webhook"} and end == ""}
        assert int(ends["left"]) == len(left)
        assert left <= set(open_), json.dumps(sorted(left - set(open_)))
