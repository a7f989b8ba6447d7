/**
 * Batches, state and metrics without a host, for tests of plug-ins: `node --import …/testing.js --test`. Importing it makes the
 * host's log an alias of the console, and keeps state and metrics in memory; `batchOf` makes batches of JSON texts.
 *
 * @module
 */
import { register } from 'node:module';

/** What takes the place of the host's interfaces: modules that are made of `host` below. */
const modules = {
  log: 'export const { write } = host.log;',
  state: 'const { get, set, delete: remove, list } = host.state; export { get, set, remove as delete, list };',
  metrics: 'export const { counter, gauge, histogram, add, set, observe } = host.metrics;',
};
const urlOf = (source) =>
  `data:text/javascript,${encodeURIComponent(`import { host } from ${JSON.stringify(import.meta.url)}; ${source}`)}`;
const urls = Object.fromEntries(Object.entries(modules).map(([name, source]) => [`tailweir:plugin/${name}`, urlOf(source)]));
const hooks = `
  const urls = ${JSON.stringify(urls)};
  export async function resolve(specifier, context, next) {
    const url = urls[specifier.split('@')[0]];
    return url === undefined ? next(specifier, context) : { url, shortCircuit: true };
  }`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);

/** A batch of these JSON texts. */
export async function batchOf(...texts) {
  const { Batch } = await import('./tailweir.js');
  return new Batch(new Records(texts));
}

/** Empties state, and what metrics have recorded. All tests of a file share them. */
export function reset() {
  kept.clear();
  for (const of of series) of.value = undefined;
}

/**
 * What a metric has recorded: the sum of what was added, what was set last, or the array of what was observed; `undefined` if
 * nothing was. `labels` are an object, as `labelled` takes them.
 */
export function recorded(name, labels = {}) {
  const key = keyOf(name, Object.entries(labels).map(([name, value]) => ({ name, value: String(value) })));
  return series.find((of) => of.key === key)?.value;
}

const utf8 = new TextEncoder();

/** Keys and values of the state. */
const kept = new Map();

/** The series of metrics, in the order of their numbers, which begin at 1: key, kind and what was recorded. */
const series = [];

/** The limits of a key and a value that the host has if nobody changes them. */
const KEY_BYTES = 512;
const VALUE_BYTES = 1 << 20;

/** What the bindings throw where the host answers with an error. */
const refusal = (tag, limit) => Object.assign(new Error(tag), { payload: { tag, val: BigInt(limit) } });

/** The order of the bytes of UTF-8, which is not that of JavaScript. */
const byBytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b));

const keyOf = (name, labels) => JSON.stringify([name, labels.map(({ name, value }) => [name, value]).sort()]);

/** The number of a series, which is made if there is none. */
function numberOf(kind, name, labels) {
  const key = keyOf(name, labels);
  const index = series.findIndex((of) => of.key === key);
  if (index < 0) return series.push({ key, kind, value: undefined });
  if (series[index].kind !== kind) throw new Error(`\`${name}\` is a ${series[index].kind} already`);
  return index + 1;
}

/** Throws where the host would record nothing, and log why. */
function finite(number, values) {
  const [name] = JSON.parse(series[number - 1].key);
  if (!values.every(Number.isFinite)) throw new RangeError(`\`${name}\` was given a number that is infinite or none`);
}

/** What the host offers besides batches. Only for the modules that are made above. */
export const host = {
  log: {
    write: (level, message) => console.error(`${level}: ${message}`),
  },
  state: {
    get: (key) => kept.get(key)?.slice(),
    set(key, value) {
      if (utf8.encode(key).length > KEY_BYTES) throw refusal('key-bytes', KEY_BYTES);
      if (value.length > VALUE_BYTES) throw refusal('value-bytes', VALUE_BYTES);
      kept.set(key, value.slice());
    },
    delete: (key) => void kept.delete(key),
    list(prefix, after, limit) {
      const isAsked = (key) => key.startsWith(prefix) && (after === undefined || byBytes(key, after) > 0);
      const keys = [...kept.keys()].filter(isAsked).sort(byBytes);
      return { keys: keys.slice(0, limit), more: keys.length > limit };
    },
  },
  metrics: {
    counter: (name, help, labels) => numberOf('counter', name, labels),
    gauge: (name, help, labels) => numberOf('gauge', name, labels),
    histogram: (name, help, labels, bounds) => numberOf('histogram', name, labels),
    add(number, amount) {
      const of = series[number - 1];
      of.value = (of.value ?? 0) + Number(amount);
    },
    set(number, value) {
      finite(number, [value]);
      series[number - 1].value = value;
    },
    observe(number, values) {
      finite(number, values);
      (series[number - 1].value ??= []).push(...values);
    },
  },
};

/** What the host offers for a batch, over texts that a test has made up. */
class Records {
  #texts;
  #values;

  constructor(texts) {
    this.#texts = texts;
    this.#values = texts.map((text) => JSON.parse(text));
  }

  id() {
    return `test:segment:1:${this.#texts.length}`;
  }

  len() {
    return this.#texts.length;
  }

  json(index) {
    if (!(index in this.#texts)) throw new RangeError(`record ${index} of a batch of ${this.len()}`);
    return this.#texts[index];
  }

  position(index) {
    this.json(index);
    const before = this.#texts.slice(0, index);
    const offset = before.reduce((sum, text) => sum + utf8.encode(text).length + 1, 0);
    return { segment: 'segment', line: BigInt(index + 1), offset: BigInt(offset) };
  }

  text() {
    let end = 0;
    const ends = this.#texts.map((text) => (end += utf8.encode(text).length));
    return { bytes: utf8.encode(this.#texts.join('')), ends: Uint32Array.from(ends) };
  }

  stringsJoined(pointer) {
    const strings = this.#column(pointer, 'string');
    const lengths = strings.map((string) => (string === undefined ? -1 : utf8.encode(string).length));
    return { bytes: utf8.encode(strings.join('')), lengths: Int32Array.from(lengths) };
  }

  integers(pointer) {
    return this.#column(pointer, 'number').map((n) => (Number.isInteger(n) ? BigInt(n) : undefined));
  }

  numbers(pointer) {
    return this.#column(pointer, 'number');
  }

  booleans(pointer) {
    return this.#column(pointer, 'boolean');
  }

  values(pointer) {
    return this.#find(pointer).map((value) => (value == null ? undefined : JSON.stringify(value)));
  }

  #column(pointer, type) {
    return this.#find(pointer).map((value) => (typeof value === type ? value : undefined));
  }

  #find(pointer) {
    if (!/^(\/([^~]|~[01])*)?$/.test(pointer)) throw new RangeError(`\`${pointer}\` is no JSON pointer (RFC 6901)`);
    const tokens = pointer.split('/').slice(1).map((token) => token.replaceAll('~1', '/').replaceAll('~0', '~'));
    const step = (value, token) => {
      if (Array.isArray(value)) return /^(0|[1-9]\d*)$/.test(token) ? value[token] : undefined;
      return value !== null && typeof value === 'object' && Object.hasOwn(value, token) ? value[token] : undefined;
    };
    return this.#values.map((record) => tokens.reduce(step, record));
  }
}
