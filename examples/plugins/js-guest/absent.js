/**
 * What JavaScript usually has and a plug-in does not: a clock, random numbers, timers and the network. A component imports none of
 * them. Without this module the time would be that at which the component was built, random numbers the same in each instance, and a
 * timer the end of the instance; with it, all of them throw an Error that says what to use instead.
 *
 * Importing `tailweir.js` puts it in force, in the plug-in's tests too. A module that is imported before that, and uses a clock while it
 * is loaded, gets the time of the build.
 *
 * @module
 */

const NO_CLOCK = 'a plug-in has no clock: take the time from the records, such as from `/timestamp`';
const NO_RANDOM =
  'a plug-in has no random numbers: the `id` of a batch tells it from others, and is the same when the batch comes again';
const NO_TIMERS = 'a plug-in has no timers: a processor throws `Retry` to have the batch again later';
const NO_NETWORK = 'a plug-in in JavaScript has no network: processors in Rust can send HTTP requests';

/** A function that is not there. */
const absent = (name, why) => () => {
  throw new Error(`\`${name}\`: ${why}`);
};

/** Has a property of an object be something else. */
const replace = (object, name, descriptor) => Object.defineProperty(object, name, { configurable: true, ...descriptor });

const RealDate = Date;
const noNow = absent('new Date()', NO_CLOCK);

/** Makes dates of given times only. `arguments` is not passed on, and there is no Proxy: both take several times as long. */
function DateOf(value, month, day, hours, minutes, seconds, ms) {
  if (arguments.length === 1 && new.target === DateOf) return new RealDate(value);
  if (new.target === undefined || arguments.length === 0) noNow();
  return Reflect.construct(RealDate, [value, month, day, hours, minutes, seconds, ms].slice(0, arguments.length), new.target);
}
Object.defineProperties(DateOf, Object.getOwnPropertyDescriptors(RealDate));
replace(DateOf, 'now', { value: absent('Date.now()', NO_CLOCK), writable: true });
replace(RealDate.prototype, 'constructor', { value: DateOf, writable: true });
replace(globalThis, 'Date', { value: DateOf, writable: true });
replace(performance, 'timeOrigin', { get: absent('performance.timeOrigin', NO_CLOCK) });

const absentFunctions = [
  [performance, 'now', 'performance.now()', NO_CLOCK],
  [Math, 'random', 'Math.random()', NO_RANDOM],
  [crypto, 'getRandomValues', 'crypto.getRandomValues()', NO_RANDOM],
  [crypto, 'randomUUID', 'crypto.randomUUID()', NO_RANDOM],
  [globalThis, 'setTimeout', 'setTimeout()', NO_TIMERS],
  [globalThis, 'setInterval', 'setInterval()', NO_TIMERS],
  [console, 'time', 'console.time()', NO_CLOCK],
  [AbortSignal, 'timeout', 'AbortSignal.timeout()', NO_TIMERS],
  [globalThis, 'fetch', 'fetch()', NO_NETWORK],
];
for (const [object, name, shown, why] of absentFunctions) replace(object, name, { value: absent(shown, why), writable: true });
