-- claim: give a courier the deliveries that are due, oldest first, of the endpoints with room.
--   First, deliveries of a dead courier are due again: their lease is over. A delivery whose lease ran
--   out too often is given up, since it may be what kills couriers.
-- uses: common, endpoint_queue
-- ARGV  1 now, or ''  2 maximum of proven endpoints' deliveries  3 maximum of probes  4 lease_s
--       5 lapses after which a delivery is given up
-- returns {now, {{endpoint, delivery, claim, pool, attempts, event, type, body, own URL or ''
--   , endpoint's URL, sealed secrets, traceparent or ''}, ...}}

local now, lease, out = clock(ARGV[1]), tonumber(ARGV[4]), {}

for _, both in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', exact(now), 'LIMIT', 0, 200)) do
  local ep, id = string.match(both, '^(%S+) (%S+)$')
  land(ep, id)
  local key = delivery_key(ep, id)
  if redis.call('EXISTS', key) == 1 and redis.call('EXISTS', endpoint_key(ep)) == 1 then
    if redis.call('HINCRBY', key, 'lapses', 1) >= tonumber(ARGV[5]) then
      redis.call('HSET', key, 'state', 'exhausted')
      keep(ep, id, now, PENDING_TTL)
    else
      deliver_at(ep, id, now)
    end
    redis.call('HINCRBY', PW .. 'courier:counts', 'lapsed', 1)
  end
  rerank(ep)
end

local function take(ep, pool)
  local id = redis.call('ZRANGE', due_key(ep), 0, 0)[1]
  redis.call('ZREM', due_key(ep), id)
  local key = delivery_key(ep, id)
  local d = redis.call('HMGET', key, 'event', 'type', 'body', 'attempts', 'url', 'state', 'trace')
  if d[6] == 'pending' then
    local e = redis.call('HMGET', endpoint_key(ep), 'url', 'secrets')
    local claim = redis.call('HINCRBY', key, 'claim', 1)
    put(flight_key(ep), exact(now + lease), id, HOUR)
    put(LEASES, exact(now + lease), ep .. ' ' .. id, HOUR)
    out[#out + 1] = {ep, id, claim, pool, tonumber(d[4]), d[1], d[2], d[3], d[5] or '', e[1], e[2],
      d[7] or ''}
  end
  rerank(ep)
  return d[6] == 'pending' and 1 or 0
end

local function serve(line, pool, wanted)
  local looked = 0
  while wanted > 0 and looked < 1000 do  -- what expired while it waited is passed over
    local ep = redis.call('ZRANGEBYSCORE', line, '-inf', exact(now), 'LIMIT', 0, 1)[1]
    if not ep then return end
    wanted, looked = wanted - take(ep, pool), looked + 1
  end
end

serve(PROVEN, 'proven', tonumber(ARGV[2]))
serve(PROBES, 'probes', tonumber(ARGV[3]))
return {exact(now), out}
