/**
 * Batches without a host, for tests of plug-ins: `node --import …/testing.js --test`. Importing it makes the host's log an
 * alias of the console; `batchOf` makes batches of JSON texts.
 *
 * @module
 */
import { register } from 'node:module';

const levels = "export const write = (level, message) => console.error(`${level}: ${message}`);";
const hooks = `
  export async function resolve(specifier, context, next) {
    return specifier.startsWith('tailweir:plugin/log@')
      ? { url: ${JSON.stringify(`data:text/javascript,${encodeURIComponent(levels)}`)}, shortCircuit: true }
      : next(specifier, context);
  }`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);

/** A batch of these JSON texts. */
export async function batchOf(...texts) {
  const { Batch } = await import('./tailweir.js');
  return new Batch(new Records(texts));
}

const utf8 = new TextEncoder();

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
