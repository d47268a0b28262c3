// The samples of the last minutes in columns, and the arithmetic for charts. Independent of the page.

export const OUTCOMES = ["late", "dropped", "rejected", "failed"];

export class Series {
  constructor() { this.clear(""); }

  clear(server) {
    this.server = server;
    this.unix_s = [];
    this.families = {};  // name → column → values
    this.variants = {};  // family → variant → answers per second
    this.devices = {};
    this.events = [];  // {unix_s, kind, text, reason}, oldest first
  }

  // Append the samples of an answer, and drop the oldest. Samples of another server replace all.
  append(feed) {
    if (feed.server !== this.server) this.clear(feed.server);
    const start_s = feed.unix_s - feed.uptime_s, before = this.unix_s.length;
    for (const at_s of feed.samples.at_s) this.unix_s.push(Math.max(start_s + at_s, (this.unix_s.at(-1) ?? 0) + 1e-3));
    for (const kind of ["families", "variants", "devices"])
      for (const [name, columns] of Object.entries(feed.samples[kind])) extend(this[kind], name, columns, before);
    for (const {at_s, ...event} of feed.events) this.events.push({unix_s: start_s + at_s, ...event});
    const extra = this.unix_s.length - Math.round(feed.keeps_s / feed.every_s);
    if (extra > 0) {
      this.unix_s.splice(0, extra);
      for (const all of [this.families, this.variants, this.devices])
        for (const columns of Object.values(all)) for (const values of Object.values(columns)) values.splice(0, extra);
    }
    const oldest_s = feed.unix_s - feed.keeps_s;
    this.events = this.events.filter((event) => event.unix_s >= oldest_s);
  }

  // A column of one family, or the sum over all where `family` is "".
  column(name, family) {
    if (family) return this.families[family][name];
    return sum(Object.values(this.families).map((columns) => columns[name]), this.unix_s.length);
  }
}

function extend(all, name, columns, before) {
  const known = (all[name] ??= {});
  for (const [column, values] of Object.entries(columns)) {
    const all_values = (known[column] ??= []);
    while (all_values.length < before) all_values.push(null);  // it is new, or has come back
    all_values.push(...values);
  }
}

// Marks for events whose places are known, from left to right: {at, kind, count}. Those of a kind within `width` are one.
export function marks(placed, width) {
  const made = [], last = {};
  for (const {at, kind} of placed) {
    if (kind in last && at - last[kind].at < width) last[kind].count += 1;
    else made.push(last[kind] = {at, kind, count: 1});
  }
  return made;
}

export function sum(columns, length) {
  const total = new Array(length).fill(0);
  for (const values of columns) for (let at = 0; at < length; at++) total[at] += values[at] ?? 0;
  return total;
}

export function scaled(values, factor) {
  return values.map((value) => (value === null ? null : value * factor));
}

// Each column plus all columns after it, so that the first is the height of the stack.
export function stacked(columns) {
  const stack = [];
  let above = new Array(columns[0]?.length ?? 0).fill(0);
  for (const values of [...columns].reverse()) {
    above = values.map((value, at) => above[at] + (value ?? 0));
    stack.unshift(above);
  }
  return stack;
}

// Means of `size` samples each, for tables: [{unix_s, values}], oldest first; the first row may have fewer samples.
export function means(unix_s, columns, size) {
  const rows = [];
  for (let last = unix_s.length % size || size; last <= unix_s.length; last += size) {
    const first = Math.max(0, last - size);
    const values = columns.map((column) => {
      const known = column.slice(first, last).filter((value) => value !== null);
      return known.length ? known.reduce((total, value) => total + value, 0) / known.length : null;
    });
    rows.push({unix_s: unix_s[first], values});
  }
  return rows;
}
