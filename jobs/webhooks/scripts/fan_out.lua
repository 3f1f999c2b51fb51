-- fan_out: make the deliveries of one event, once.
--   The events of a job's progress share one ID: the latest replaces one that waits.
-- uses: common, endpoint_queue
-- KEYS  1 outbox
-- ARGV  1 now, or ''  2 the event as it stands in the outbox, or '' for one that was never there
--       3 event ID  4 type  5 job ID, or ''  6 body  7 traceparent, or ''
--       8... of each: endpoint, delivery ID, URL or ''
-- returns the number of deliveries; -1: another courier had made them

local now = clock(ARGV[1])
if ARGV[2] ~= '' and redis.call('LREM', KEYS[1], 1, ARGV[2]) == 0 then return -1 end
local made, passing = 0, ARGV[4] == 'job.progress'

local function welcome(ep, id, key)
  local due = redis.call('ZCARD', due_key(ep))
  if not passing and due >= MOST_KEPT then
    redis.call('HINCRBY', endpoint_key(ep), 'dropped', 1)
    redis.call('HINCRBY', PW .. 'courier:counts', 'dropped', 1)
    return false
  end
  if not passing then return redis.call('EXISTS', key) == 0 end
  return redis.call('HGET', endpoint_key(ep), 'state') == 'enabled'  -- held, it would be stale
    and due < MOST_DUE and not redis.call('ZSCORE', flight_key(ep), id)
end

for i = 8, #ARGV, 3 do
  local ep, id, url = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = delivery_key(ep, id)
  if redis.call('EXISTS', endpoint_key(ep)) == 1 and welcome(ep, id, key) then
    redis.call('HSET', key, 'event', ARGV[3], 'type', ARGV[4], 'job', ARGV[5], 'body', ARGV[6],
      'state', 'pending', 'attempts', 0, 'claim', 0, 'made_at', exact(now))
    if url ~= '' then redis.call('HSET', key, 'url', url) end
    if ARGV[7] ~= '' then redis.call('HSET', key, 'trace', ARGV[7]) end
    deliver_at(ep, id, now)
    keep(ep, id, now, passing and HOUR or PENDING_TTL)
    rerank(ep)
    made = made + 1
  end
end
return made
