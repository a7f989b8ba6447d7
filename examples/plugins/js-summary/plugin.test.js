import assert from 'node:assert/strict';
import { test } from 'node:test';

import { batchOf } from '../js-guest/testing.js';
import { handle, lifecycle } from './plugin.js';

test('records are counted by type', async () => {
  const batch = await batchOf('{"type":"Delivery"}', '{"type":"Bounce"}', '{"type":"Delivery"}', '{"type":null}');
  const expected = { batch: batch.id, records: 4, types: { Bounce: 1, Delivery: 2 } };
  assert.equal(JSON.stringify(handle(batch, { field: '/type' })), JSON.stringify([expected]));
});

test('a configuration with a field that is no pointer is refused', () => {
  for (const config of ['{"field":7}', '{"field":"type"}']) {
    assert.throws(() => lifecycle.init(config), (reason) => reason.includes('`field`'));
  }
  lifecycle.init('null');
});
