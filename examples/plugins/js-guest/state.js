/**
 * What a processor remembers from one batch to the next, also over restarts: keys with values, in a bucket of its own for each
 * consumer and each name of a plug-in.
 *
 * What `handle` changes becomes durable in one step with the batch's checkpoint, and is undone if the batch comes again; after
 * `Reject` it stays. Variables are not undone, and an instance may be replaced between two calls: what must be exact is read
 * from here in each call. In `configure` state can be read and not changed.
 *
 * Only a plug-in that imports this module has state: any other one may run without a checkpoint, and several of it at once.
 *
 * @module
 */
import * as host from 'tailweir:plugin/state@0.1.0';

import { Stop } from './tailweir.js';

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** As many keys as the host gives at once. */
const PAGE = 1000;

const REASONS = {
  'key-bytes': (limit) => `a key of state has at most ${limit} bytes (\`state_key_bytes\`)`,
  'value-bytes': (limit) => `a value of state has at most ${limit} bytes (\`state_value_bytes\`)`,
  keys: (limit) => `the state has at most ${limit} keys (\`state_keys\`)`,
  bytes: (limit) => `the state has at most ${limit} bytes (\`state_bytes\`)`,
  changes: (limit) => `a batch changes at most ${limit} keys of state (\`state_changes\`)`,
  'not-now': () => 'state can be changed only while a batch is processed',
};

/**
 * Thrown where a limit does not allow a change, and nothing was changed. `tag` says which, as `error` in `state.wit` has them. A
 * processor that does not catch it stops its consumer with the reason: only the operator can raise a limit.
 */
export class StateError extends Stop {
  constructor({ tag, val }) {
    super(REASONS[tag](val));
    this.name = 'StateError';
    this.tag = tag;
  }
}

/** Has the host change something. */
function change(call) {
  try {
    call();
  } catch (error) {
    throw error?.payload?.tag in REASONS ? new StateError(error.payload) : error;
  }
}

export const state = {
  /** The value of a key as a Uint8Array, `undefined` if it has none. */
  get: (key) => host.get(key) ?? undefined,

  /** The value of a key as a string, `undefined` if it has none. Throws a TypeError if it is not UTF-8. */
  getText(key) {
    const value = host.get(key);
    return value == null ? undefined : decoder.decode(value);
  },

  /** Gives a key a value, a Uint8Array or a string, in place of any that it has. Throws a StateError. */
  set(key, value) {
    if (typeof value !== 'string' && !(value instanceof Uint8Array)) {
      throw new TypeError(`the value of \`${key}\` must be a string or a Uint8Array`);
    }
    change(() => host.set(key, typeof value === 'string' ? encoder.encode(value) : value));
  },

  /** Takes a key and its value out; one that is not there stays so. Throws a StateError. */
  delete(key) {
    change(() => host.delete(key));
  },

  /** The keys that begin with `prefix`, in the order of their UTF-8. They are fetched as they are asked for. */
  *list(prefix = '') {
    for (let last, more = true; more; ) {
      const page = host.list(prefix, last, PAGE);
      yield* page.keys;
      last = page.keys.at(-1);
      more = page.more && last !== undefined;
    }
  },
};
