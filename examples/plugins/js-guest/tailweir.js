/**
 * What a tailweir plug-in written in JavaScript uses: the batch, the answers, the log, and `makeFilter` and `makeProcessor`,
 * which make a plug-in of a function.
 *
 * @module
 */
import { write } from 'tailweir:plugin/log@0.1.0';

import './absent.js';
import { inWords, isPromise, shown } from './errors.js';

// Where a text begins with a byte order mark, that is part of it.
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

/** The host's log, by level: `log.info('…')`. What is not a string is shown as JSON. */
export const log = Object.fromEntries(
  ['trace', 'debug', 'info', 'warn', 'error'].map((level) => [
    level,
    (message) => write(level, typeof message === 'string' ? message : String(JSON.stringify(message))),
  ]),
);

/**
 * Consecutive log records, which the host keeps: a plug-in asks for what it needs of them, from cheap to expensive one of
 * the columns, `texts()`, `records()`. To be used during the call that it is passed to, and no longer.
 *
 * A column has one entry per record, in order: the field that a JSON pointer (RFC 6901) such as `/response/code` names. It
 * is `undefined` where a record does not have the field, where it is null, and where it is of another type. A pointer that
 * is none ends the plug-in.
 */
export class Batch {
  #host;

  /** The host's batch, or one of `testing.js`. */
  constructor(host) {
    this.#host = host;
  }

  /** What identifies the batch: the same records come with the same id again, other ones never do. */
  get id() {
    return this.#host.id();
  }

  /** How many records there are. */
  get length() {
    return this.#host.len();
  }

  /** The JSON text of the record at `index`, as it stands in its segment. An index beyond the last ends the plug-in. */
  json(index) {
    return this.#host.json(index);
  }

  /** The record at `index` as a value. */
  record(index) {
    return JSON.parse(this.json(index));
  }

  /** Where the record at `index` is: `{ segment, line, offset }`, the last two as BigInt. */
  position(index) {
    return this.#host.position(index);
  }

  /** The JSON texts of all records, fetched at once. */
  texts() {
    const { bytes, ends } = this.#host.text();
    const lengths = Array.from(ends, (end, index) => end - (index === 0 ? 0 : ends[index - 1]));
    return cut(bytes, lengths);
  }

  /** All records as values. */
  records() {
    return this.texts().map((text) => JSON.parse(text));
  }

  /** A column of strings. */
  strings(pointer) {
    const { bytes, lengths } = this.#host.stringsJoined(pointer);
    return cut(bytes, lengths);
  }

  /** A column of integers, exact, each a BigInt. A number with a fraction or an exponent is none. */
  integers(pointer) {
    return this.#host.integers(pointer);
  }

  /** A column of numbers. */
  numbers(pointer) {
    return this.#host.numbers(pointer);
  }

  /** A column of booleans. */
  booleans(pointer) {
    return this.#host.booleans(pointer);
  }

  /** A column of values of any type. */
  values(pointer) {
    return this.#host.values(pointer).map((text) => (text == null ? undefined : JSON.parse(text)));
  }
}

/** Texts that are joined as UTF-8, apart: one per length, `undefined` where that is below zero. */
function cut(bytes, lengths) {
  const all = utf8.decode(bytes);
  const isAscii = all.length === bytes.length;
  const texts = new Array(lengths.length).fill(undefined);
  let start = 0;
  for (let index = 0; index < lengths.length; index++) {
    const length = lengths[index];
    if (length < 0) continue;
    const end = start + length;
    // In ASCII a byte is a character, and decoding once is cheaper than decoding each.
    texts[index] = isAscii ? all.slice(start, end) : utf8.decode(bytes.subarray(start, end));
    start = end;
  }
  return texts;
}

/** Thrown by a processor: the same batch is to come again, with the same id. */
export class Retry extends Error {
  /** `afterMs`: not before so many milliseconds, a whole number; without it the consumer's back-off counts, which grows. */
  constructor(reason, { afterMs } = {}) {
    super(reasonOf('Retry', reason));
    this.failure = { tag: 'retry', val: { afterMs: afterMs === undefined ? undefined : milliseconds(afterMs), reason } };
  }
}

function milliseconds(afterMs) {
  if ((typeof afterMs !== 'number' && typeof afterMs !== 'bigint') || !Number.isSafeInteger(Number(afterMs)) || afterMs < 0) {
    throw new RangeError(`\`afterMs\` of a Retry must be a whole number from 0 to 2^53 - 1, not ${shown(afterMs)}`);
  }
  return BigInt(afterMs);
}

/** Thrown by a processor: the records at these indices, counted from 0, go to quarantine; the others are dealt with. */
export class Reject extends Error {
  constructor(indices, reason) {
    const rejected = indicesOf(indices);
    super(reasonOf('Reject', reason));
    this.failure = { tag: 'reject', val: { indices: rejected, reason } };
  }
}

/** An index that becomes another one would put a record in quarantine that has nothing to do there. */
function indicesOf(indices) {
  if (typeof indices !== 'object' || typeof indices?.[Symbol.iterator] !== 'function') {
    throw new TypeError(`the indices of a Reject must be an array, not ${shown(indices)}`);
  }
  return Uint32Array.from(indices, (index, at) => {
    if (Number.isInteger(index) && index >= 0 && index < 2 ** 32) return index;
    const must = 'each must be a whole number from 0 to one less than the length of the batch';
    throw new RangeError(`the indices of a Reject have ${shown(index)} at ${at}; ${must}`);
  });
}

/** Thrown by a processor: the consumer stops, and the batch comes again at its next start. */
export class Stop extends Error {
  constructor(reason) {
    super(reasonOf('Stop', reason));
    this.failure = { tag: 'stop', val: reason };
  }
}

function reasonOf(name, reason) {
  if (typeof reason === 'string') return reason;
  throw new TypeError(`the reason of a ${name} must be a string, not ${shown(reason)}`);
}

/**
 * Makes a filter. Its module exports what comes back: `export const { lifecycle, filter } = makeFilter({ … })`.
 *
 * - `name`, `version`: what the plug-in is called in logs, metrics and errors.
 * - `configSchema`: JSON schema of the configuration; the host holds configurations to it.
 * - `configure(config)`: optional. Gets the configuration, `null` if there is none, and returns what `keep` is given. What
 *   it throws is shown to the operator, and the plug-in is not used.
 * - `keep(batch, config)`: returns one boolean per record, or `true` or `false` for all. What it throws is the plug-in's
 *   error.
 */
export function makeFilter({ keep, ...description }) {
  const { lifecycle, config } = makeLifecycle(description);
  const filter = {
    evaluate(batch) {
      try {
        return verdict(keep(new Batch(batch), config()));
      } catch (error) {
        throw inWords(error);
      }
    },
  };
  return { lifecycle, filter };
}

function verdict(kept) {
  if (kept === true) return { tag: 'all' };
  if (kept === false) return { tag: 'none' };
  const must = 'it must be an array of booleans, true or false';
  if (!Array.isArray(kept)) throw new TypeError(`keep returned ${shown(kept)}; ${must}`);
  // What is in it at all is found at once, without a look at each entry by JavaScript, which costs more.
  const found = new Set(kept);
  found.delete(true);
  found.delete(false);
  if (found.size === 0) return { tag: 'keep', val: kept };
  const index = kept.findIndex((entry) => typeof entry !== 'boolean');
  throw new TypeError(`keep returned an array with ${shown(kept[index])} at index ${index}; ${must}`);
}

/**
 * Makes a processor. Its module exports what comes back: `export const { lifecycle, process } = makeProcessor({ … })`.
 *
 * The options are those of `makeFilter`, but for `handle(batch, config)` in place of `keep`: it returns nothing, or the
 * records that go to the consumer's sink, each a JSON text or a value that is made one. It throws `Retry`, `Reject` or
 * `Stop` where a batch cannot be dealt with. Any other error ends the instance, as a panic does in other languages: the
 * batch is tried again on a fresh one, and the record that it fails on is found and quarantined.
 */
export function makeProcessor({ handle, ...description }) {
  const { lifecycle, config } = makeLifecycle(description);
  const process = {
    process(batch) {
      try {
        return outcome(handle(new Batch(batch), config()));
      } catch (error) {
        if (error?.failure !== undefined) throw error.failure;
        log.error(inWords(error));
        throw error;
      }
    },
  };
  return { lifecycle, process };
}

function outcome(emitted) {
  if (emitted === undefined) return { tag: 'done' };
  if (!Array.isArray(emitted)) {
    throw new TypeError(`handle returned ${shown(emitted)}; it must return nothing, or an array of records`);
  }
  const texts = emitted.map((record) => (typeof record === 'string' ? record : JSON.stringify(record)));
  // Whether there may be one that is no record is found at once. `{}` is the text of a Promise, too.
  const isSuspect = texts.includes(undefined) || texts.includes('{}');
  const index = isSuspect ? emitted.findIndex((record, at) => isNone(record, texts[at])) : -1;
  if (index < 0) return { tag: 'emit', val: texts };
  const must = 'it must be a JSON text, or a value that has one';
  throw new TypeError(`handle returned ${shown(emitted[index])} as the record at index ${index}; ${must}`);
}

/** Whether what was returned as a record is none, by its text. */
const isNone = (record, text) => text === undefined || (text === '{}' && isPromise(record));

function makeLifecycle({ name, version, configSchema, configure = (config) => config }) {
  let configured;
  const lifecycle = {
    describe: () => ({
      name,
      version,
      needs: [],
      configSchema: configSchema === undefined ? '' : JSON.stringify(configSchema),
    }),
    init(text) {
      try {
        configured = configure(JSON.parse(text));
        if (isPromise(configured)) throw new TypeError(`configure returned ${shown(configured)}`);
      } catch (error) {
        throw error?.constructor === Error || error?.failure !== undefined ? error.message : inWords(error);
      }
    },
  };
  return { lifecycle, config: () => configured };
}
