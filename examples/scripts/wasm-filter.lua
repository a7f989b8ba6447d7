-- A WebAssembly component as the filter of a Lua script: the records that it drops never become Lua values.
--
--   tailweir script wasm-filter.lua -- /var/log/kumomta customer-a
local kumo = require 'kumo'

kumo.on('main', function(directory, pool)
  local tailer <close> = kumo.jsonl.new_tailer({
    directory = directory,
    max_batch_size = 1000,
    checkpoint_name = 'wasm-filter',
    follow = false,
  }, kumo.wasm.filter {
    -- Relative to this script.
    path = '../plugins/pool-filter/pool-filter.wasm',
    config = { pool = pool },
    limits = { deadline = '2s' },
  })

  local count, bytes = 0, 0
  for batch in tailer:batches() do
    for record in batch:iter_records() do
      count = count + 1
      bytes = bytes + record.size
    end
    batch:commit()
  end
  print(string.format('%s: %d records, messages of %d bytes', pool, count, bytes))
end)
