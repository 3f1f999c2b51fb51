-- finish_common: the writes that every end of a job shares; cancel and expire, which need no worker.
-- uses: common, job_queue, outbox, counting, input_holds
-- Included. Invariant: a final job has a TTL, a tombstone and no execution, and its images, if it
-- can have any, have a date of deletion.

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
  uncount_open(id, tenant)
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

-- Its prompt, record and results are gone from now on: 410.
-- returns how many images it can have, their extension, and the inputs that nobody holds now
local function forget(id, tenant, now)
  local f = redis.call('HMGET', job_key(id), 'status', 'origin', 'x_n', 'x_ext')
  if not final(f[1]) then stop(id, 'canceled', now) end
  for _, registry in ipairs({'finished:', 'failed:', 'canceled:'}) do
    redis.call('ZREM', RQ .. registry .. (f[2] or ''), id)
  end
  redis.call('ZREM', PW .. 'tenant:' .. tenant .. ':jobs', id)
  local inputs = release_now(id)
  redis.call('DEL', job_key(id), RQ .. 'results:' .. id)
  redis.call('SET', PW .. 'gone:' .. id, tenant, 'EX', GONE_TTL)
  local pictures, extension = f[3] or '0', f[4] or 'png'
  redis.call('ZADD', PW .. 'erase', exact(now + ORPHAN_S),
    tenant .. '/' .. id .. '/' .. pictures .. '.' .. extension)
  return pictures, extension, inputs
end
