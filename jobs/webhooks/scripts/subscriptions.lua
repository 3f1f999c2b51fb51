-- subscriptions: keep the set of event types that a tenant's endpoints subscribe to. The end of a job
--   reads the set, and writes no event without a subscriber. A disabled endpoint counts: the events
--   that it misses are kept for it.
-- uses: common, endpoint_queue
-- Included.

local function recount(endpoints, wanted)
  redis.call('DEL', wanted)
  for _, ep in ipairs(redis.call('SMEMBERS', endpoints)) do
    local events = redis.call('HGET', endpoint_key(ep), 'events') or ''
    for kind in string.gmatch(events, '%S+') do redis.call('SADD', wanted, kind) end
  end
end
