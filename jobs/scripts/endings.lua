-- endings: what every end of a job shares, and the two ends that need no worker.
-- uses: common, outbox, counting, holding
-- Included. Invariant: a job that is final has a TTL, a tombstone, no execution, and
-- its pictures, if it can have any, have a date at which they are erased.

local ORPHAN_S = 120  -- an upload under way when its job ended is over by then (30 s at most)

local function drop_execution(id, eid, queue, worker)
  local both = id .. ':' .. eid
  redis.call('ZREM', RQ .. 'wip:' .. queue, both)
  redis.call('DEL', RQ .. 'execution:' .. both)
  redis.call('ZREM', RQ .. 'executions:' .. id, eid)
  redis.call('SREM', RQ .. 'worker:' .. worker .. ':executions', both)
end

local function drop_executions(id, queue, worker)
  for _, eid in ipairs(redis.call('ZRANGE', RQ .. 'executions:' .. id, 0, -1)) do
    drop_execution(id, eid, queue, worker)
  end
end

local function close(id, word, now)  -- status, registry and result are written by the caller
  local f = redis.call('HMGET', job_key(id), 'x_tenant', 'result_ttl', 'x_idem', 'x_n', 'x_ext',
    'x_attempts')
  local tenant, ttl = f[1] or '', tonumber(f[2] or 500)
  redis.call('HSET', job_key(id), 'ended_at', iso(now), 'x_ended', exact(now))
  redis.call('EXPIRE', job_key(id), ttl)
  redis.call('ZREM', PW .. 'tenant:' .. tenant .. ':open', id)
  redis.call('ZREM', PW .. 'deadlines', id)
  redis.call('SET', PW .. 'gone:' .. id, tenant, 'EX', ttl + GONE_TTL)
  if f[3] then redis.call('EXPIRE', PW .. 'idempotency:' .. f[3], ttl + 86400) end
  local pictures = f[6] and f[4] or '0'  -- never claimed: never a picture
  local due = now + ((pictures ~= '0' and word ~= 'succeeded') and ORPHAN_S or ttl)
  redis.call('ZADD', PW .. 'erase', exact(due),
    tenant .. '/' .. id .. '/' .. pictures .. '.' .. (f[5] or 'png'))
  redis.call('DEL', preview_key(id))
  release_at(id, now + ttl)
  count_end(id, word, now)
  tell(id, word)
  announce(id, word, now)
  leave_group(id, word, now)
  return ttl
end

local function stop(id, word, now)  -- canceled or expired, at once, whatever it is doing
  local f = redis.call('HMGET', job_key(id), 'status', 'origin', 'worker_name', 'x_tenant')
  local status, queue, worker, tenant = f[1], f[2] or '', f[3] or '', f[4] or ''
  leave_line(id, queue, tenant)
  drop_executions(id, queue, worker)
  redis.call('DEL', RQ .. 'executions:' .. id)
  redis.call('HSET', job_key(id), 'status', 'canceled')
  if word == 'expired' then redis.call('HSET', job_key(id), 'x_end', word) end
  local ttl = close(id, word, now)
  redis.call('ZADD', RQ .. 'canceled:' .. queue, exact(now + ttl), id)
  if status == 'started' and worker ~= '' then  -- a hint; its next beat is the backstop
    redis.call('PUBLISH', RQ .. 'pubsub:' .. worker,
      cjson.encode({command = 'stop-job', job_id = id}))
  end
end
