import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { counter, gauge, histogram } from './metrics.js';
import { StateError, state } from './state.js';
import { Reject, Retry, Stop, makeFilter, makeProcessor } from './tailweir.js';
import { batchOf, recorded, reset } from './testing.js';

const raw = { id: () => 'x', len: () => 1 };
const plugin = { name: 'test', version: '0.1.0' };

beforeEach(reset);

/** What is thrown, whatever it is. */
function thrown(call) {
  try {
    call();
  } catch (error) {
    return error;
  }
  assert.fail('nothing was thrown');
}

test('columns have one entry per record', async () => {
  const batch = await batchOf('{"s":"Grüße","n":1.5,"b":true,"i":7}', '{"s":null,"n":"1","b":0,"i":7.5}', '{"s":"你好","v":[1]}');
  assert.deepEqual(batch.strings('/s'), ['Grüße', undefined, '你好']);
  assert.deepEqual((await batchOf('{"s":"\\ufeffa"}')).strings('/s'), ['\ufeffa']);
  assert.deepEqual(batch.numbers('/n'), [1.5, undefined, undefined]);
  assert.deepEqual(batch.booleans('/b'), [true, undefined, undefined]);
  assert.deepEqual(batch.integers('/i'), [7n, undefined, undefined]);
  assert.deepEqual(batch.values('/v'), [undefined, undefined, [1]]);
  assert.deepEqual(batch.values('/v/0'), [undefined, undefined, 1]);
  assert.throws(() => batch.strings('s'), /no JSON pointer/);
});

test('records are there as texts and as values', async () => {
  const batch = await batchOf('{"a":"ü"}', '[1, 2]');
  assert.equal(batch.length, 2);
  assert.deepEqual(batch.texts(), ['{"a":"ü"}', '[1, 2]']);
  assert.deepEqual(batch.records(), [{ a: 'ü' }, [1, 2]]);
  assert.deepEqual(batch.record(1), [1, 2]);
  assert.deepEqual(batch.position(1), { segment: 'segment', line: 2n, offset: 11n });
});

test('a filter answers with a verdict, or with a reason', () => {
  const answer = (keep) => {
    const { lifecycle, filter } = makeFilter({ ...plugin, keep });
    lifecycle.init('null');
    return filter.evaluate(raw);
  };
  assert.deepEqual(answer(() => true), { tag: 'all' });
  assert.deepEqual(answer(() => false), { tag: 'none' });
  assert.deepEqual(answer(() => [true]), { tag: 'keep', val: [true] });
  assert.match(thrown(() => answer(() => 7)), /^TypeError: keep returned number/);
  assert.match(thrown(() => answer((batch) => batch.nothing.at)), /^TypeError: .*tailweir\.test\.js:\d+/);
});

test('a processor answers with what it has done', () => {
  const answer = (handle) => {
    const { lifecycle, process } = makeProcessor({ ...plugin, handle });
    lifecycle.init('null');
    return process.process(raw);
  };
  assert.deepEqual(answer(() => {}), { tag: 'done' });
  assert.deepEqual(answer(() => ['{}', { a: 1 }]), { tag: 'emit', val: ['{}', '{"a":1}'] });
  const failure = (error) => thrown(() => answer(() => { throw error; }));
  assert.deepEqual(failure(new Retry('busy')), { tag: 'retry', val: { afterMs: undefined, reason: 'busy' } });
  assert.deepEqual(failure(new Retry('busy', { afterMs: 5 })), { tag: 'retry', val: { afterMs: 5n, reason: 'busy' } });
  assert.deepEqual(failure(new Reject([1], 'bad')), { tag: 'reject', val: { indices: Uint32Array.of(1), reason: 'bad' } });
  assert.deepEqual(failure(new Stop('no')), { tag: 'stop', val: 'no' });
  assert.ok(failure(new TypeError('a mistake')) instanceof TypeError);
});

test('a configuration is made by the plug-in, and refused in words', () => {
  const configure = (config) => {
    if (config === null) throw new Error('`pool` is missing');
    if (config.pool === '') throw new Stop('`pool` is empty');
    return config.pool.toUpperCase();
  };
  const { lifecycle, filter } = makeFilter({ ...plugin, configSchema: {}, configure, keep: (_, config) => config === 'A' });
  assert.equal(lifecycle.describe().configSchema, '{}');
  assert.equal(thrown(() => lifecycle.init('null')), '`pool` is missing');
  assert.equal(thrown(() => lifecycle.init('{"pool":""}')), '`pool` is empty');
  lifecycle.init('{"pool":"a"}');
  assert.deepEqual(filter.evaluate(raw), { tag: 'all' });
});

test('state keeps bytes and texts', () => {
  assert.equal(state.get('a'), undefined);
  assert.equal(state.getText('a'), undefined);
  state.set('a', 'Grüße');
  assert.deepEqual(state.get('a'), new TextEncoder().encode('Grüße'));
  assert.equal(state.getText('a'), 'Grüße');
  state.set('a', Uint8Array.of(0, 255));
  assert.deepEqual(state.get('a'), Uint8Array.of(0, 255));
  assert.throws(() => state.getText('a'), TypeError);
  state.set('a', '\ufeffa');
  assert.equal(state.getText('a'), '\ufeffa');
  state.set('a', '');
  assert.equal(state.getText('a'), '');
  state.delete('a');
  state.delete('a');
  assert.equal(state.get('a'), undefined);
  assert.throws(() => state.set('a', 7), /the value of `a` must be a string or a Uint8Array/);
});

test('all keys with a prefix are listed, in the order of their bytes', () => {
  const keys = Array.from({ length: 2500 }, (_, n) => `by/${String(n).padStart(4, '0')}`);
  for (const key of [...keys.toReversed(), 'by', 'by0', 'by/\u{1f600}', 'by/\uffee']) state.set(key, 'x');
  assert.deepEqual([...state.list('by/')], [...keys, 'by/\uffee', 'by/\u{1f600}']);
  assert.equal([...state.list()].length, 2504);
  assert.deepEqual([...state.list('c')], []);
});

test('what a limit does not allow stops a processor that does not see to it', () => {
  const { lifecycle, process } = makeProcessor({ ...plugin, handle: () => state.set('k'.repeat(513), 'x') });
  lifecycle.init('null');
  const reason = 'a key of state has at most 512 bytes (`state_key_bytes`)';
  assert.deepEqual(thrown(() => process.process(raw)), { tag: 'stop', val: reason });
  const error = thrown(() => state.set('k', new Uint8Array((1 << 20) + 1)));
  assert.ok(error instanceof StateError && error.tag === 'value-bytes');
});

test('metrics record what they are told', () => {
  const sent = counter('sent_total', 'Records sent');
  assert.equal(recorded('sent_total'), undefined);
  sent.add(2);
  sent.add(3n);
  sent.labelled({ status: 200, pool: 'a' }).add(1);
  counter('sent_total', 'Records sent').labelled({ pool: 'a', status: '200' }).add(1);
  assert.equal(recorded('sent_total'), 5);
  assert.equal(recorded('sent_total', { status: 200, pool: 'a' }), 2);
  const waiting = gauge('waiting', 'Messages that wait');
  waiting.set(7);
  waiting.set(-0.5);
  assert.equal(recorded('waiting'), -0.5);
  histogram('size_bytes', 'Sizes', [1, 10]).observe([0.5, 70]);
  assert.deepEqual(recorded('size_bytes'), [0.5, 70]);
  reset();
  sent.add(1);
  assert.equal(recorded('sent_total'), 1);
  assert.throws(() => sent.add(-1), /only grows/);
  assert.throws(() => gauge('sent_total', '').set(1), /`sent_total` is a counter already/);
});
