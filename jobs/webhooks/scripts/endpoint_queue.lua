-- endpoint_queue: the keys of endpoints and deliveries, and which endpoints have a delivery due and
--   room for an attempt. Keys hang together by the endpoint's ID (no Redis Cluster).
-- uses: common
-- Included in every script. Invariant: an endpoint stands in `proven` or `probes` only if it is
-- enabled, has a delivery that is not under way, and fewer under way than it may; its score is when
-- the first of them is due.

local PENDING_TTL, DELIVERED_TTL = @PENDING_TTL_S@, @DELIVERED_TTL_S@
local AT_ONCE, AT_ONCE_PROBING = @AT_ONCE@, @AT_ONCE_PROBING@
local HOUR = 3600
local MOST_DUE = 1000  -- of one endpoint, beyond which progress is not added
-- Beyond this nothing is: about 10 MB of bodies. An endpoint that is off for a month must not fill the
-- Redis that jobs need; its tenant sees how many were left out.
local MOST_KEPT = @MOST_KEPT@
local PROVEN, PROBES, LEASES = PW .. 'courier:proven', PW .. 'courier:probes', PW .. 'courier:leases'

local function endpoint_key(ep) return PW .. 'endpoint:' .. ep end
local function due_key(ep) return PW .. 'due:' .. ep end
local function flight_key(ep) return PW .. 'flight:' .. ep end
local function listing_key(ep) return PW .. 'deliveries:' .. ep end
local function kept_key(ep) return PW .. 'kept:' .. ep end
local function delivery_key(ep, id) return PW .. 'delivery:' .. ep .. ':' .. id end

local function put(key, score, member, ttl)
  redis.call('ZADD', key, score, member)
  redis.call('EXPIRE', key, ttl)
end

local function rerank(ep)
  redis.call('ZREM', PROVEN, ep)
  redis.call('ZREM', PROBES, ep)
  local f = redis.call('HMGET', endpoint_key(ep), 'state', 'proven')
  if f[1] ~= 'enabled' then return end
  local proven = f[2] == '1'
  if redis.call('ZCARD', flight_key(ep)) >= (proven and AT_ONCE or AT_ONCE_PROBING) then return end
  local first = redis.call('ZRANGE', due_key(ep), 0, 0, 'WITHSCORES')
  if first[1] then put(proven and PROVEN or PROBES, first[2], ep, PENDING_TTL) end
end

local function keep(ep, id, now, ttl)  -- a delivery and its place in the listing, for ttl from now
  redis.call('EXPIRE', delivery_key(ep, id), ttl)
  redis.call('EXPIRE', delivery_key(ep, id) .. ':attempts', ttl)
  put(listing_key(ep), 0, id, PENDING_TTL)
  put(kept_key(ep), exact(now + ttl), id, PENDING_TTL)
  -- a few of those whose time is over leave with each that comes: the listing never grows for ever
  local over = redis.call('ZRANGEBYSCORE', kept_key(ep), '-inf', exact(now), 'LIMIT', 0, 20)
  for _, old in ipairs(over) do
    redis.call('ZREM', kept_key(ep), old)
    redis.call('ZREM', listing_key(ep), old)
  end
end

local function deliver_at(ep, id, at)
  put(due_key(ep), exact(at), id, PENDING_TTL)
end

local function land(ep, id)  -- an attempt is over, one way or another
  redis.call('ZREM', flight_key(ep), id)
  redis.call('ZREM', LEASES, ep .. ' ' .. id)
end
