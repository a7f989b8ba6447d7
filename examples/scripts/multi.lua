-- Several consumers in one process: each has its own filter, batches and checkpoint, and one pass over the directory
-- serves them all.
--
--   tailweir script multi.lua -- /var/log/kumomta
local kumo = require 'kumo'

kumo.on('main', function(directory)
  local counts = { deliveries = 0, bounces = 0 }

  local tailer <close> = kumo.jsonl.new_multi_tailer {
    directory = directory,
    follow = false,
    consumers = {
      {
        name = 'deliveries',
        max_batch_size = 500,
        checkpoint_name = 'multi-deliveries',
        filter = function(record)
          return record.type == 'Delivery'
        end,
      },
      {
        name = 'bounces',
        max_batch_size = 50,
        max_batch_latency = '250ms',
        checkpoint_name = 'multi-bounces',
        filter = function(record)
          return record.type == 'Bounce' and record.response.code >= 500
        end,
      },
    },
  }

  -- Each turn gives the batches that are ready, at most one per consumer.
  for batches in tailer:batches() do
    for _, batch in ipairs(batches) do
      local name = batch:consumer_name()
      counts[name] = counts[name] + #batch
      batch:commit()
    end
  end

  print(string.format('%d deliveries, %d bounces', counts.deliveries, counts.bounces))
end)
