-- delete: cancel a job if need be and forget it: prompt, record and results; 410 from now on.
-- uses: common, outbox, endings
-- KEYS  1 job hash  2 tombstone  3 tenant's listing  4 RQ's results of the job
-- ARGV  1 job id  2 tenant
-- returns {verdict, images, file extension, inputs that nobody holds now}: ok, gone, missing

local id = ARGV[1]
local f = redis.call('HMGET', KEYS[1], 'x_tenant', 'status', 'origin', 'x_n', 'x_ext')
if f[1] ~= ARGV[2] then
  if not f[1] and redis.call('GET', KEYS[2]) == ARGV[2] then return {'gone'} end
  return {'missing'}
end
local now = clock()
if not final(f[2]) then stop(id, 'canceled', now) end
for _, registry in ipairs({'finished:', 'failed:', 'canceled:'}) do
  redis.call('ZREM', RQ .. registry .. (f[3] or ''), id)
end
redis.call('ZREM', KEYS[3], id)
local inputs = release_now(id)
redis.call('DEL', KEYS[1], KEYS[4])
redis.call('SET', KEYS[2], ARGV[2], 'EX', GONE_TTL)
local pictures = f[4] or '0'
redis.call('ZADD', PW .. 'erase', exact(now + ORPHAN_S),
  ARGV[2] .. '/' .. id .. '/' .. pictures .. '.' .. (f[5] or 'png'))
return {'ok', pictures, f[5] or 'png', inputs}
