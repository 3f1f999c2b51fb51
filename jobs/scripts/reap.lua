-- reap: jobs whose lease is over go back to the head of their queue. Any number of reapers is safe.
-- uses: common, outbox, endings, returning
--   After a restart of Redis nobody could renew a lease while it was away: nothing is reaped
--   until it has been up for one lease.
-- KEYS  1... started registries (rq:wip:...)
-- ARGV  1 lease_s  2 most a registry  3 crashes after which a job runs alone  4 crashes after
--       which it has failed  5 error as JSON  6 trace, as RQ keeps it
-- returns {{job id, what became of it}, ...}

local now, over, out = clock(), {}, {}
local verdict = {why = 'lease', crash = true, solo_after = tonumber(ARGV[3]), fail_after = tonumber(ARGV[4]),
  error = ARGV[5], trace = ARGV[6]}
for _, key in ipairs(KEYS) do
  local late = redis.call('ZRANGEBYSCORE', key, '-inf', exact(now), 'LIMIT', 0, tonumber(ARGV[2]))
  for _, both in ipairs(late) do
    local id, eid = string.match(both, '^(.*):(.*)$')
    over[#over + 1] = {id = id, eid = eid, queue = string.sub(key, #(RQ .. 'wip:') + 1),
      since = tonumber(redis.call('HGET', job_key(id), 'x_enq') or 0)}
  end
end
-- nearly always, and what is asked next costs more than all this
if #over == 0 then return {} end
local up = tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)'))
if up < tonumber(ARGV[1]) then return {} end
table.sort(over, function(a, b) return a.since > b.since end)
for _, o in ipairs(over) do
  out[#out + 1] = {o.id, send_back(o.id, o.eid, o.queue, now, verdict)}
end
return out
