import assert from 'node:assert/strict';
import { test } from 'node:test';

import { batchOf } from './guest/testing.js';
import { handle, lifecycle } from './plugin.js';

test('records are counted by type', async () => {
  const batch = await batchOf('{"type":"Delivery"}', '{"type":"Bounce"}', '{"type":"Delivery"}', '{}');
  const expected = [{ counts: { Bounce: 1, Delivery: 2, none: 1 }, type: 'summary' }];
  assert.equal(JSON.stringify(handle(batch, { name: 'summary' })), JSON.stringify(expected));
});

test('a configuration with a name that is no string is refused', () => {
  assert.throws(() => lifecycle.init('{"name":7}'), (reason) => reason.includes('`name`'));
  lifecycle.init('null');
});
