-- settle: check some of a tenant's open jobs, and end those that RQ's tools or operators ended.
-- uses: common, job_queue, outbox, finish_common, requeue_common, settling
-- ARGV  1 tenant  2 cursor: 0, then the cursor of the call before  3 about how many jobs to check
--       4 maximum of jobs to end: the rest comes with the same cursor again
-- returns {cursor, or '' after the last job; number of ended jobs; {job id, reason it is unreadable,
--   ...}}

local tenant, now, ended, damaged = ARGV[1], clock(), 0, {}
local found = redis.call('ZSCAN', open_key(tenant), ARGV[2], 'COUNT', ARGV[3])
for i = 1, #found[2], 2 do
  local over, why = settle(found[2][i], tenant, now)
  if over then ended = ended + 1 end
  if why then
    damaged[#damaged + 1] = found[2][i]
    damaged[#damaged + 1] = why
  end
  if ended >= tonumber(ARGV[4]) then return {ARGV[2], ended, damaged} end
end
if found[1] ~= '0' then return {found[1], ended, damaged} end
local kept = redis.call('HSCAN', kept_key(tenant), 0, 'COUNT', ARGV[3])[2]
for i = 1, #kept, 2 do  -- left by an older version's end of a job
  if not redis.call('ZSCORE', open_key(tenant), kept[i]) then
    redis.call('HDEL', kept_key(tenant), kept[i])
  end
end
-- one look later than the last job: its lines are swept after this
if #found[2] == 0 and ARGV[2] == '0' then redis.call('SREM', PW .. 'tenants', tenant) end
return {'', ended, damaged}
