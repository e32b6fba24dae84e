"""The two Lua scripts that touch names: read some rows at one moment, write some if nothing was written since.

They know no rules: those are in `names`, and run here, on what was read. Sent whole each time (Redis keeps the compiled
script), so that a server that was restarted needs no second round.
"""

from __future__ import annotations

SCHEMA_VERSION = 1
REQUESTS_KEPT = 10_000  # far more writes than can happen between a lost reply and its retry
HINTS_KEPT = 100  # the last one would do; Redis trims by blocks of about this many

# A server whose run id is not the one noted may have lost the last writes: another process took over, or the same one
# started anew. A new epoch tells every reader, whatever the numbers say. `INFO` may be forbidden to our user; then only
# a store that was emptied gets a new epoch.
_SETTLE = """
local function settle(candidate)
  local info = redis.pcall('INFO', 'server')
  local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
  local meta = redis.call('HMGET', KEYS[1], 'epoch', 'number', 'revision', 'server', 'schema')
  if not meta[1] then
    redis.call('HSET', KEYS[1], 'schema', SCHEMA, 'epoch', candidate, 'number', 0, 'revision', 0, 'server', server)
  elseif server ~= '' and meta[4] ~= server then
    redis.pcall('HSET', KEYS[1], 'epoch', candidate, 'server', server)
  else
    return meta
  end
  return redis.call('HMGET', KEYS[1], 'epoch', 'number', 'revision', 'server', 'schema')
end
local function run(first)
  local results = {}
  while ARGV[first] do
    local length = tonumber(ARGV[first])
    results[#results + 1] = redis.call(unpack(ARGV, first + 1, first + length))
    first = first + length + 1
  end
  return results
end
""".replace("SCHEMA", str(SCHEMA_VERSION))

# KEYS: meta, then every key that is read. ARGV: a candidate epoch, then commands, each behind its length.
READ = _SETTLE + "return {settle(ARGV[1]), run(2)}"

# KEYS: meta, requests, hints, then every key that is written.
# ARGV: a candidate epoch, the id of this request, the epoch and revision that were read, then commands.
# A request that is there already was applied, and only its reply was lost. Allowed when memory is full: deleting writes
# a little before it frees much. (A script that only reads must not say so: it would be refused where writes are.)
# A hint that cannot be written is none: the sequence is the truth.
COMMIT = (
    "#!lua flags=allow-oom\n"
    + _SETTLE
    + f"""
local meta = settle(ARGV[1])
if redis.call('ZSCORE', KEYS[2], ARGV[2]) then return 1 end
if meta[1] ~= ARGV[3] or meta[3] ~= ARGV[4] then return 0 end
run(5)
local revision = redis.call('HINCRBY', KEYS[1], 'revision', 1)
redis.call('ZADD', KEYS[2], revision, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', revision - {REQUESTS_KEPT})
local number = redis.call('HGET', KEYS[1], 'number')
if number ~= meta[2] then redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', {HINTS_KEPT}, '*', 'number', number) end
return 1
"""
)
