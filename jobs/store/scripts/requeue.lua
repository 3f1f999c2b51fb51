-- requeue: return a worker's running jobs to the head of their queues, oldest first in line.
-- uses: common, job_queue, outbox, finish_common, requeue_common
-- ARGV  1 reason: drain (costs nothing), retry (costs one of RQ's retries), crash (its engine died)
--       2 crashes after which a job runs alone  3 crashes after which a job has failed
--       4 error as JSON  5 trace, as RQ keeps it  6... of each: queue, job:execution
-- returns {{job id, queued, failed, expired, lost or its RQ status}, ...}

local now, held = clock(), {}
local verdict = {why = ARGV[1], crash = ARGV[1] == 'crash', retry = ARGV[1] == 'retry',
  solo_after = tonumber(ARGV[2]), fail_after = tonumber(ARGV[3]), error = ARGV[4], trace = ARGV[5]}
for i = 6, #ARGV, 2 do
  local id, eid = string.match(ARGV[i + 1], '^(.*):(.*)$')
  held[#held + 1] = {id = id, eid = eid, queue = ARGV[i],
    since = tonumber(redis.call('HGET', job_key(id), 'x_enq') or 0)}
end
-- each goes to the very head: the youngest first, so that the oldest ends there
table.sort(held, function(a, b) return a.since > b.since end)
local out = {}
for _, h in ipairs(held) do
  out[#out + 1] = {h.id, send_back(h.id, h.eid, h.queue, now, verdict)}
end
return out
