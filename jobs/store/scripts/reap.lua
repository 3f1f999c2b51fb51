-- reap: return jobs whose lease is over to the head of their queue. Any number of reapers is safe.
--   While Redis was unavailable (killed, frozen, cut off, its clock set) no worker could renew a lease.
--   That shows by no reaper having run either: then nothing is reaped for one lease more, so that
--   living workers renew first. Their first beat used to race with the first reap, and lost at times.
-- uses: common, job_queue, outbox, finish_common, requeue_common
-- KEYS  1... started registries (rq:wip:...)
-- ARGV  1 lease_s; 0: do not wait for renewals  2 maximum of jobs a registry  3 crashes after which a
--       job runs alone  4 crashes after which a job has failed  5 error as JSON  6 trace, as RQ keeps it
-- returns {{job id, queued, failed, expired, lost or its RQ status}, ...}

local lease = tonumber(ARGV[1])
local LOOKED, HELD = PW .. 'reap:looked', PW .. 'reap:held'

-- Beats are a third of a lease apart: who was away for less than the rest still holds its lease.
local function was_away(now)
  local looked = tonumber(redis.call('GET', LOOKED) or now)
  redis.call('SET', LOOKED, exact(now), 'EX', GONE_TTL)
  return lease > 0 and math.abs(now - looked) > lease * 2 / 3
end

local now, over, out = clock(), {}, {}
local verdict = {why = 'lease', crash = true, solo_after = tonumber(ARGV[3]), fail_after = tonumber(ARGV[4]),
  error = ARGV[5], trace = ARGV[6]}
if was_away(now) then redis.call('SET', HELD, 1, 'EX', lease) end
if redis.call('EXISTS', HELD) == 1 then return {} end
for _, key in ipairs(KEYS) do
  local late = redis.call('ZRANGEBYSCORE', key, '-inf', exact(now), 'LIMIT', 0, tonumber(ARGV[2]))
  for _, both in ipairs(late) do
    local id, eid = string.match(both, '^(.*):(.*)$')
    over[#over + 1] = {id = id, eid = eid, queue = string.sub(key, #(RQ .. 'wip:') + 1),
      since = tonumber(redis.call('HGET', job_key(id), 'x_enq') or 0)}
  end
end
table.sort(over, function(a, b) return a.since > b.since end)
for _, o in ipairs(over) do
  out[#out + 1] = {o.id, send_back(o.id, o.eid, o.queue, now, verdict)}
end
return out
