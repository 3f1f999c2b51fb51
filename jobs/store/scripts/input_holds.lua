-- input_holds: input images of jobs, and the jobs and uploads that hold them. A hold is a member of a
--   zset with the time of its end; the bytes of an input live while one hold has not ended.
--   x_inputs of a job: tenant/id/name of each input, with a space between.
-- uses: common, job_queue
-- Included.

local LOOK_S = 600  -- an input that jobs hold is looked at this often

local function input_key(of) return PW .. 'input:' .. of end
local function holds_key(of) return PW .. 'input:' .. of .. ':holds' end

local function held_until(of)
  local last = redis.call('ZRANGE', holds_key(of), 0, 0, 'REV', 'WITHSCORES')
  return tonumber(last[2] or 0)
end

local function each_input(job_id)  -- tenant/id and name, in turn
  return string.gmatch(redis.call('HGET', job_key(job_id), 'x_inputs') or '', '(%S+)/(%S+)')
end

local function missing_input(members)  -- tenant/id of the first that is not there
  for of in string.gmatch(members, '%S+') do
    if redis.call('HEXISTS', input_key(of), 'blob') == 0 then return of end
  end
end

-- A job that is admitted holds its inputs until its record goes, which is not known yet.
local function hold_inputs(job_id, members, now)
  local named = {}
  for of in string.gmatch(members, '%S+') do
    named[#named + 1] = of .. '/' .. redis.call('HGET', input_key(of), 'blob')
    redis.call('ZADD', holds_key(of), exact(now + OPEN_TTL), job_id)
    redis.call('EXPIRE', input_key(of), @INPUT_KEEP_S@)
    redis.call('EXPIRE', holds_key(of), @INPUT_KEEP_S@)
  end
  redis.call('HSET', job_key(job_id), 'x_inputs', table.concat(named, ' '))
end

local function release_at(job_id, at)  -- it has ended; its record, and so its hold, ends at `at`
  for of, blob in each_input(job_id) do
    if redis.call('HGET', input_key(of), 'blob') == blob then
      redis.call('ZADD', holds_key(of), 'XX', exact(at), job_id)
      redis.call('ZADD', PW .. 'inputs', 'LT', exact(at), of .. '/' .. blob)
    end
  end
end

local function release_now(job_id)  -- its record goes; what nobody else holds is to be erased
  local free = {}
  for of, blob in each_input(job_id) do
    if redis.call('HGET', input_key(of), 'blob') == blob then
      redis.call('ZREM', holds_key(of), job_id)
      if held_until(of) <= clock() then
        redis.call('DEL', input_key(of), holds_key(of))
        redis.call('ZADD', PW .. 'inputs', exact(clock()), of .. '/' .. blob)
        free[#free + 1] = of .. '/' .. blob
      end
    end
  end
  return free
end
