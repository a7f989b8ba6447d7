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
  assert.match(thrown(() => answer(() => 7)), /^TypeError: keep returned 7; it must be an array of booleans/);
  assert.match(thrown(() => answer((batch) => batch.nothing.at)), /^TypeError: .*tailweir\.test\.js:\d+/);
});

test('entries of a verdict are booleans', () => {
  const refused = (kept) => {
    const { lifecycle, filter } = makeFilter({ ...plugin, keep: () => kept });
    lifecycle.init('null');
    return thrown(() => filter.evaluate(raw)).replace(/ \(\S* ?\(?file:.*/, '');
  };
  const must = 'it must be an array of booleans, true or false';
  const texts = ['a', 'b', 'c'];
  const awaited = texts.map(async () => true);
  assert.equal(refused(awaited), `TypeError: keep returned an array with a Promise (nothing is awaited) at index 0; ${must}`);
  assert.equal(refused(Promise.all(awaited)), `TypeError: keep returned a Promise (nothing is awaited); ${must}`);
  assert.equal(refused(texts.map(() => ({}))), `TypeError: keep returned an array with an object at index 0; ${must}`);
  assert.equal(refused(texts.map(() => {})), `TypeError: keep returned an array with undefined at index 0; ${must}`);
  assert.equal(refused([true, ...texts]), `TypeError: keep returned an array with "a" at index 1; ${must}`);
  assert.equal(refused([false, true, NaN, 1]), `TypeError: keep returned an array with NaN at index 2; ${must}`);
  assert.equal(refused(Object.assign(new Array(3), [true, false])), `TypeError: keep returned an array with undefined at index 2; ${must}`);
  assert.equal(refused(new Set()), `TypeError: keep returned a Set; ${must}`);
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
  assert.deepEqual(failure(new Reject(new Set([0, 2]), 'bad')).val.indices, Uint32Array.of(0, 2));
  assert.ok(failure(new TypeError('a mistake')) instanceof TypeError);
});

test('a failure that makes no sense is an error, not another failure', () => {
  const refused = {
    'the indices of a Reject must be an array, not 0': () => new Reject(0, 'x'),
    'the indices of a Reject must be an array, not "x"': () => new Reject('x', [0]),
    'the indices of a Reject must be an array, not an object': () => new Reject({}, 'x'),
    'the indices of a Reject have "a" at 1; each must be a whole number from 0 to one less than the length of the batch': () =>
      new Reject([0, 'a'], 'x'),
    'the reason of a Reject must be a string, not undefined': () => new Reject([0]),
    'the reason of a Retry must be a string, not a TypeError': () => new Retry(new TypeError('x')),
    'the reason of a Stop must be a string, not undefined': () => new Stop(),
  };
  for (const [words, make] of Object.entries(refused)) assert.equal(thrown(make).message, words);
  for (const index of [-1, 1.5, NaN, 2 ** 32, '0', 0n, undefined]) assert.throws(() => new Reject([index], 'x'), /at 0; each must be/);
  for (const afterMs of [-1, 1.5, NaN, Infinity, 2 ** 53, -1n, 2n ** 64n, '5', null]) {
    assert.throws(() => new Retry('x', { afterMs }), /^RangeError: `afterMs` of a Retry must be a whole number from 0 to 2\^53 - 1, not/);
  }
  assert.equal(new Retry('x', { afterMs: 2 ** 53 - 1 }).failure.val.afterMs, 2n ** 53n - 1n);
  assert.equal(new Retry('x', { afterMs: 0n }).failure.val.afterMs, 0n);
});

test('what a processor returns that is no record is named', () => {
  const refused = (returned) => {
    const { lifecycle, process } = makeProcessor({ ...plugin, handle: () => returned });
    lifecycle.init('null');
    return thrown(() => process.process(raw)).message;
  };
  const must = 'it must return nothing, or an array of records';
  assert.equal(refused({ a: 1 }), `handle returned an object; ${must}`);
  assert.equal(refused(Promise.resolve([])), `handle returned a Promise (nothing is awaited); ${must}`);
  assert.equal(refused(null), `handle returned null; ${must}`);
  const value = 'it must be a JSON text, or a value that has one';
  assert.equal(refused(['{}', undefined]), `handle returned undefined as the record at index 1; ${value}`);
  assert.equal(refused(new Array(1)), `handle returned undefined as the record at index 0; ${value}`);
  assert.equal(refused([() => 1]), `handle returned a function as the record at index 0; ${value}`);
  assert.equal(refused([{}, (async () => 1)()]), `handle returned a Promise (nothing is awaited) as the record at index 1; ${value}`);
});

test('an error is told with the place in the plug-in', () => {
  const { lifecycle, filter } = makeFilter({ ...plugin, keep: () => { throw new Stop(); } });
  lifecycle.init('null');
  const place = /^TypeError: the reason of a Stop must be a string, not undefined \(.*tailweir\.test\.js:\d+:\d+\)+$/;
  assert.match(thrown(() => filter.evaluate(raw)), place);
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
  const late = makeFilter({ ...plugin, configure: async (config) => config, keep: () => true });
  assert.match(thrown(() => late.lifecycle.init('null')), /^TypeError: configure returned a Promise \(nothing is awaited\)/);
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
  for (const wrong of [-1, 1.5, NaN, Infinity, 2 ** 53, -1n, 2n ** 64n, '1', undefined, null, true]) {
    assert.throws(() => sent.add(wrong), /^RangeError: `sent_total` only grows, by whole numbers, and was given /);
  }
  assert.equal(thrown(() => sent.labelled({ a: 1 }).add(-1)).message, '`sent_total` only grows, by whole numbers, and was given -1');
  assert.equal(recorded('sent_total'), 1);
  for (const wrong of ['7', 7n, undefined]) assert.throws(() => waiting.set(wrong), /`waiting` is set to a number, and was given/);
  for (const wrong of [NaN, -Infinity]) assert.throws(() => waiting.set(wrong), /`waiting` was given a number that is infinite or none/);
  const sizes = histogram('size_bytes', 'Sizes', [1, 10]);
  for (const wrong of [7, '7', undefined]) assert.throws(() => sizes.observe(wrong), /`size_bytes` observes an array of numbers/);
  assert.throws(() => sizes.observe([1, NaN]), /`size_bytes` was given a number that is infinite or none/);
  assert.throws(() => gauge('sent_total', '').set(1), /`sent_total` is a counter already/);
});

test('there is no clock, nor what else a component does not have', () => {
  const clock = /^Error: `.*`: a plug-in has no clock: take the time from the records/;
  for (const call of [() => new Date(), () => Date(), () => Date.now(), () => performance.now(), () => performance.timeOrigin]) {
    assert.throws(call, clock);
  }
  class Day extends Date {}
  assert.throws(() => new Day(), clock);
  assert.throws(() => new (new Date(0).constructor)(), clock);
  for (const call of [() => Math.random(), () => crypto.randomUUID(), () => crypto.getRandomValues(new Uint8Array(1))]) {
    assert.throws(call, /^Error: `.*`: a plug-in has no random numbers: the `id` of a batch/);
  }
  for (const call of [() => setTimeout(() => {}, 1), () => setInterval(() => {}, 1), () => AbortSignal.timeout(1)]) {
    assert.throws(call, /^Error: `.*`: a plug-in has no timers/);
  }
  assert.throws(() => fetch('http://localhost'), /^Error: `fetch\(\)`: a plug-in in JavaScript has no network/);
});

test('dates of given times are as ever', () => {
  class Day extends Date {}
  assert.equal(new Date(0).toISOString(), '1970-01-01T00:00:00.000Z');
  assert.equal(new Date('2025-09-12T11:08:01Z').getTime(), Date.UTC(2025, 8, 12, 11, 8, 1));
  assert.equal(new Date(2025, 8, 12, 11, 8, 1, 5).getMilliseconds(), 5);
  assert.equal(new Date(2025, 8).getDate(), 1);
  assert.equal(Date.parse('1970-01-01T00:00:01Z'), 1000);
  assert.ok(Number.isNaN(new Date(undefined).getTime()));
  assert.ok(new Date(0) instanceof Date && new Day(0) instanceof Day && new Day(0) instanceof Date);
  assert.equal(new Day(0).getTime(), new Date(new Date(0)).getTime());
  assert.equal(new Date(0).constructor, Date);
  assert.equal(Date.name, 'Date');
});
