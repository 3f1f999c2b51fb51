-- endpoint_drop: delete an endpoint and all of its deliveries.
-- uses: common, endpoint_queue, subscriptions
-- KEYS  1 endpoint  2 tenant's endpoints  3 event types that the tenant's endpoints subscribe to
-- ARGV  1 endpoint ID
-- returns the number of deleted endpoints: 0 or 1

local ep = ARGV[1]
local known = redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ep)
for _, id in ipairs(redis.call('ZRANGE', flight_key(ep), 0, -1)) do land(ep, id) end
for _, id in ipairs(redis.call('ZRANGE', listing_key(ep), 0, -1)) do
  redis.call('UNLINK', delivery_key(ep, id), delivery_key(ep, id) .. ':attempts')
end
redis.call('UNLINK', due_key(ep), flight_key(ep), listing_key(ep), kept_key(ep))
recount(KEYS[2], KEYS[3])
rerank(ep)
return known
