-- Posts the log records of one customer to a webhook, a batch at a time.
--
--   tailweir script webhook.lua -- /var/log/kumomta http://127.0.0.1:4242/log customer-a
--
-- This is the webhook script of KumoMTA's documentation, with the directory, the address and the egress pool taken from
-- the command line. It runs under kumod too: kumod --script --policy webhook.lua -- …
local kumo = require 'kumo'

kumo.on('main', function(directory, url, pool)
  local client = kumo.http.build_client {}
  local max_retries = 5
  local retry_delay_seconds = 2

  -- Perform the HTTP POST and return the response.
  local function post_batch(payload)
    return client
      :post(url)
      :header('Content-Type', 'application/json')
      :body(payload)
      :send()
  end

  -- Encode the records as a JSON array, then post with retries.
  -- Returns only if the post succeeded; raises an error otherwise,
  -- leaving the batch uncommitted so the next run will retry it.
  local function process_batch(records)
    local payload = kumo.serde.json_encode(records)
    for attempt = 1, max_retries do
      local response = post_batch(payload)
      if response:status_is_success() then
        return
      end

      local status = response:status_code()
      local disposition = string.format(
        '%d %s: %s',
        status,
        response:status_reason(),
        response:text()
      )

      -- 429 Too Many Requests and 5xx server errors are transient and worth
      -- retrying. 4xx client errors (other than 429) indicate a permanent
      -- problem with the request itself and are not worth retrying.
      local retryable = status == 429 or status >= 500

      if not retryable or attempt == max_retries then
        -- We did not commit, so the next run will retry this batch. Sleep
        -- briefly before failing out so that a supervising process does not
        -- restart us too quickly.
        kumo.log_error(
          string.format(
            'webhook post failed (attempt %d/%d), giving up: %s',
            attempt,
            max_retries,
            disposition
          )
        )
        kumo.time.sleep(5)
        error('webhook post failed: ' .. disposition)
      end

      -- Transient failure: wait before retrying.
      kumo.log_error(
        string.format(
          'webhook post failed (attempt %d/%d), retrying in %ds: %s',
          attempt,
          max_retries,
          retry_delay_seconds,
          disposition
        )
      )
      kumo.time.sleep(retry_delay_seconds)
    end
  end

  local tailer = kumo.jsonl.new_tailer(
    {
      directory = directory,
      max_batch_size = 100,
      max_batch_latency = '1s',
      checkpoint_name = 'webhook-poster',
    },
    -- Only forward records for this egress pool.
    function(record)
      return record.egress_pool == pool
    end
  )

  for batch in tailer:batches() do
    process_batch(batch:records())
    batch:commit()
  end

  tailer:close()
  client:close()
end)
