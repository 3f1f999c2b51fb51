-- endpoint_put: register an endpoint, or change some of its fields.
-- uses: common, endpoint_queue, subscriptions
-- KEYS  1 endpoint  2 tenant's endpoints  3 event types that the tenant's endpoints subscribe to
-- ARGV  1 endpoint ID  2 maximum of endpoints of a tenant  3 sealed secrets as they were read, or ''
--       4 new (1) or not (0)  5... fields, values ('' : remove the field)
-- returns ok; full (too many); missing (deleted meanwhile); changed (the secrets were changed meanwhile)

local known = redis.call('EXISTS', KEYS[1]) == 1
if ARGV[4] == '1' and not known and redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[2]) then
  return 'full'
end
if ARGV[4] == '0' and not known then return 'missing' end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'secrets') ~= ARGV[3] then return 'changed' end

for i = 5, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
redis.call('SADD', KEYS[2], ARGV[1])
recount(KEYS[2], KEYS[3])
rerank(ARGV[1])
return 'ok'
