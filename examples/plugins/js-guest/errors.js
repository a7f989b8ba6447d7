/**
 * How errors are told. For the other modules here; a plug-in needs none of it.
 *
 * @module
 */

/** At most as much of a text is shown. */
const CHARACTERS = 40;

/** A value that is not what was asked for, in the words of an error: `7`, `"a"`, `undefined`, `an array`, `a Map`. */
export function shown(value) {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > CHARACTERS ? `${value.slice(0, CHARACTERS)}…` : value);
    case 'bigint':
      return `${value}n`;
    case 'function':
      return 'a function';
    case 'object':
      return value === null ? 'null' : ofItsKind(value);
    default:
      return String(value);
  }
}

function ofItsKind(object) {
  if (isPromise(object)) return 'a Promise (nothing is awaited)';
  const name = object.constructor?.name || 'Object';
  const known = { Object: 'object', Array: 'array' }[name] ?? name;
  return `${/^[aeiou]/i.test(known) ? 'an' : 'a'} ${known}`;
}

/** Whether a value is what an `async` function returns. */
export const isPromise = (value) => typeof value?.then === 'function';

/** A line of `stack`, of either engine: `keep@plugin.js:7:3` or `at keep (file:///…/plugin.js:7:3)`. */
const FRAME = /^(?:at |[^@]*@).*:\d+:\d+\)?$/;

/** What is in front of the names of the modules here. */
const FOLDER = /([^\s@(]*)errors\.js:\d/.exec(new Error().stack)?.[1] ?? '';

/** Frames of these modules and of what calls them in a component: a mistake is where the plug-in has called them. */
const OURS = ['tailweir', 'state', 'metrics', 'errors', 'absent'].map((name) => `${FOLDER}${name}.js:`).concat('/sources/initializer.js:');

/** An error with the place in the plug-in that it came from: `TypeError: x is undefined (handle@plugin.js:7:3)`. */
export function inWords(error) {
  if (!(error instanceof Error)) return String(error);
  const frames = String(error.stack ?? '').split('\n').map((line) => line.trim()).filter((line) => FRAME.test(line));
  const at = frames.find((frame) => !OURS.some((place) => frame.includes(place)));
  return `${error.name}: ${error.message}${at ? ` (${at.replace(/^at /, '')})` : ''}`;
}
