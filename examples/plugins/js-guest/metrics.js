/**
 * Figures of a plug-in's own, for whoever watches over it: counters, gauges and histograms. Filters and processors may have them.
 *
 * They count what was done, repetitions included, and begin at zero when the process starts: what must be exact belongs in state.
 * One call per batch and series is enough. What exceeds a limit or cannot be a metric is not recorded; the host counts it, and
 * logs why once.
 *
 * Metrics are made once, outside of functions: `const sent = counter('sent_total', 'Records sent')`. The host is told at their
 * first use.
 *
 * @module
 */
import * as host from 'tailweir:plugin/metrics@0.1.0';

import { shown } from './errors.js';

/** Labels as the host wants them. */
const pairs = (labels) => Object.entries(labels).map(([name, value]) => ({ name, value: String(value) }));

/** What all metrics have in common: `register(labels)` has the host give a series its number. */
class Metric {
  #register;
  #number;

  /** Its name, for errors. */
  name;

  constructor(name, register, number) {
    this.name = name;
    this.#register = register;
    this.#number = number;
  }

  /** The metric of the same name that has these labels, such as `{ type: 'Bounce' }`. A value is one of a few: never an id. */
  labelled(labels) {
    return new this.constructor(this.name, this.#register, this.#register(pairs(labels)));
  }

  /** The number of its series. */
  get number() {
    return (this.#number ??= this.#register([]));
  }
}

class Counter extends Metric {
  /** Adds an integer, which is not below 0. Throws a RangeError for anything else, and adds nothing. */
  add(amount) {
    const isWhole = typeof amount === 'bigint' ? amount < 2n ** 64n : Number.isSafeInteger(amount);
    if (!isWhole || amount < 0) throw new RangeError(`\`${this.name}\` only grows, by whole numbers, and was given ${shown(amount)}`);
    host.add(this.number, BigInt(amount));
  }
}

class Gauge extends Metric {
  /** Sets it to a finite number. Throws a TypeError for what is no number; the host does not record one that is not finite. */
  set(value) {
    if (typeof value !== 'number') throw new TypeError(`\`${this.name}\` is set to a number, and was given ${shown(value)}`);
    host.set(this.number, value);
  }
}

class Histogram extends Metric {
  /** Counts these values, all of which must be finite, or none is counted. Throws a TypeError for what is no array. */
  observe(values) {
    if (typeof values !== 'object' || typeof values?.[Symbol.iterator] !== 'function') {
      throw new TypeError(`\`${this.name}\` observes an array of numbers, and was given ${shown(values)}`);
    }
    host.observe(this.number, Float64Array.from(values));
  }
}

/** Only grows: `add(amount)`. Its name is of letters, digits and `_`, and ends in `_total` by custom; `help` says what it is about. */
export const counter = (name, help) => new Counter(name, (labels) => host.counter(name, help, labels));

/** Has the value that it was given last: `set(value)`. */
export const gauge = (name, help) => new Gauge(name, (labels) => host.gauge(name, help, labels));

/**
 * Counts values by how large they are: `observe(values)`. `bounds` are the largest values of its buckets, in order; a bucket for
 * what is larger comes of itself.
 */
export const histogram = (name, help, bounds) =>
  new Histogram(name, (labels) => host.histogram(name, help, labels, Float64Array.from(bounds)));
