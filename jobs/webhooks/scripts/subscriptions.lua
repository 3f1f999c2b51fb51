-- wants: what any of a tenant's endpoints asks for. Included after shelf.
-- uses: common, endpoint_queue
-- Ending a job looks here, and writes no event that nobody wants. A disabled endpoint counts: what
-- it misses is kept for it.

local function recount(endpoints, wanted)
  redis.call('DEL', wanted)
  for _, ep in ipairs(redis.call('SMEMBERS', endpoints)) do
    local events = redis.call('HGET', endpoint_key(ep), 'events') or ''
    for kind in string.gmatch(events, '%S+') do redis.call('SADD', wanted, kind) end
  end
end
