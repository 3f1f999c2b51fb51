-- admit: accept one job, or say why not. One step: replay, quota, depth, hash, place in the line.
-- uses: common, viewing, holding
-- KEYS  1 job hash  2 tenant's open jobs  3 tenant's listing  4 backlog  5 RQ's set of queues
--       6 tombstone of the job  7 idempotency entry, or the job hash again where there is none
-- ARGV  1 job id  2 tenant  3 queue  4 cost  5 deadline in s from now, or ''
--       6 most jobs  7 most cost  8 most open jobs of the tenant (each '' : no limit)
--       9 most jobs of the tenant in the line  10 fingerprint, or ''  11 tenant/id of each
--       input, with a space between  12 RQ's data  13 the hash's other fields and values, in turn,
--       as a list of JSON
-- returns {verdict, snapshot or number}: ok, replay, gone, mismatch, tenant,
--       full, input (that one is not there)

local id, tenant, queue, cost = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now = clock()

if redis.call('EXISTS', KEYS[1]) == 1 then return {'ok', snapshot(id, now)} end  -- a lost reply
if redis.call('EXISTS', KEYS[6]) == 1 then return {'gone', 0} end

if ARGV[10] ~= '' then
  local used = redis.call('GET', KEYS[7])
  if used then
    local other, fingerprint = string.match(used, '^(%S+) (%S+)$')
    if fingerprint ~= ARGV[10] then return {'mismatch', 0} end
    if redis.call('EXISTS', job_key(other)) == 0 then return {'gone', 0} end
    return {'replay', snapshot(other, now), other}
  end
end

local function over(value, most) return most ~= '' and value >= tonumber(most) end
local backlog = redis.call('HMGET', KEYS[4], 'jobs', 'cost')
if over(redis.call('ZCARD', KEYS[2]), ARGV[8]) then return {'tenant', ARGV[8]} end
if over(tonumber(backlog[1] or 0), ARGV[6]) then return {'full', backlog[1]} end
-- the cost limit lets the job that crosses it in: otherwise one large job could never be sent
if over(tonumber(backlog[2] or 0), ARGV[7]) then return {'full', backlog[1]} end

if ARGV[11] ~= '' then
  local missing = hold_inputs(id, ARGV[11], now)
  if missing then return {'input', missing} end
end
redis.call('HSET', KEYS[1], 'data', ARGV[12], unpack(cjson.decode(ARGV[13])))
redis.call('HSET', KEYS[1], 'created_at', iso(now), 'enqueued_at', iso(now), 'x_enq', exact(now))
if ARGV[5] ~= '' then
  local deadline = exact(now + tonumber(ARGV[5]))
  redis.call('HSET', KEYS[1], 'x_deadline', deadline)
  redis.call('ZADD', PW .. 'deadlines', deadline, id)
end
redis.call('ZADD', KEYS[2], exact(now), id)
redis.call('EXPIRE', KEYS[2], OPEN_TTL)
redis.call('ZADD', KEYS[3], 0, id)  -- equal scores: the IDs, which sort by time, are the order
redis.call('EXPIRE', KEYS[3], @LISTING_TTL_S@)
if ARGV[10] ~= '' then
  redis.call('SET', KEYS[7], id .. ' ' .. ARGV[10], 'EX', OPEN_TTL)
end
redis.call('SADD', KEYS[5], list_key(queue))
if redis.call('SCARD', line_key(queue, tenant)) >= tonumber(ARGV[9]) then
  stand_aside(id, queue, tenant)
else
  join_line(id, queue, tenant, true)
end
count_in(id, queue, cost)
return {'ok', snapshot(id, now)}
