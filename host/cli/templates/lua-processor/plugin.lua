-- A processor: counts the records of each batch by their `type`, and emits one record with the counts. Its configuration may be
-- a table: `name` is the `type` of the records that are emitted.

local name = 'summary'

return {
  -- Is called once, with the configuration, if there is one. An error here is for the operator to see, before any record is read.
  init = function(config)
    if config == nil then return end
    if type(config) ~= 'table' or type(config.name or name) ~= 'string' then
      error('the configuration may have `name`, a string', 0)
    end
    name = config.name or name
  end,

  -- Is called once per batch. What it returns is written to the consumer's sink, and then the batch is done; it may also ask for
  -- the batch again with `return nil, { retry = '2s', reason = 'why' }`, or have its first record put in quarantine with
  -- `return nil, { reject = { 1 }, reason = 'why' }`. A batch can come more than once, with the same id.
  process = function(batch)
    local counts = {}
    for record in batch:iter_records() do
      local kind = record.type or 'none'
      counts[kind] = (counts[kind] or 0) + 1
    end
    return { { counts = counts, type = name } }
  end,
}
