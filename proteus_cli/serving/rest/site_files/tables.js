// Tables. Cells change only where their text changes, so that a selection in them stays.

import * as format from "./format.js";
import * as inHosts from "./hosts.js";

const SVG = "http://www.w3.org/2000/svg", EVENTS_HEIGHT = 384;

export function element(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

export function svgElement(name, attributes = {}, ...inside) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

export function setText(cell, text) {
  if (cell.textContent !== text) cell.replaceChildren(...whole(text));
}

// A text in which no line ends at the hyphen of a name.
const whole = (text) => text.split(/(\S*-\S*)/).map((part, at) => (at % 2 ? element("span", {class: "whole"}, part) : part));

// rows: [{key, className, cells: [{text, className, bar, toggle}]}]; the first cell heads its row.
function fill(table, rows) {
  const body = table.tBodies[0], known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach(({key, className = "", cells}, place) => {
    let row = known.get(key);
    if (!row) {
      row = element("tr", {"data-key": key});
      cells.forEach((_, at) => row.append(element(at ? "td" : "th", at ? {} : {scope: "row"})));
    }
    known.delete(key);
    if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
    row.className = className;
    cells.forEach(({text, className: of = "", bar, toggle}, at) => {
      const cell = row.cells[at];
      if (cell.className !== of) cell.className = of;
      if (toggle) setToggle(cell, text, toggle);
      else if (bar === undefined) setText(cell, text);
      else setBar(cell, text, bar);
    });
  });
  for (const row of known.values()) row.remove();
}

// A number, and a bar that is as long; the bar is hidden from screen readers.
function setBar(cell, text, part) {
  if (!cell.firstElementChild) {
    const bar = svgElement("rect", {height: 6, width: 0}), frame = svgElement("rect", {height: 6, width: 40, class: "frame"});
    cell.append(element("span"), svgElement("svg", {class: "load", viewBox: "0 0 40 6", preserveAspectRatio: "none", "aria-hidden": "true"}, frame, bar));
  }
  setText(cell.firstElementChild, text);
  cell.querySelector("rect:last-child").setAttribute("width", 40 * Math.min(1, part));
}

// A button that shows or hides what is below. toggle: {isOpen, onToggle}.
function setToggle(cell, text, {isOpen, onToggle}) {
  if (!cell.firstElementChild) cell.append(element("button", {type: "button", class: "toggle"}));
  const button = cell.firstElementChild;
  setText(button, text);
  button.setAttribute("aria-expanded", isOpen);
  button.onclick = onToggle;
}

const text = (value, className = "") => ({text: value, className});

// A mark before accuracies that no labels stand behind.
const estimate = (now) => now.estimated && now.accuracy !== null ? "≈" : "";

// A family's name, with what its plans prefer to accuracy, and a mark where its requests or answers have shifted.
const named = (name, {prefers, shifted}) => `${name}${prefers === "accuracy" ? "" : ` · prefers ${prefers}`}${shifted ? " ▲ shifted" : ""}`;

// Columns of cascades and exits are there only where a plan has any.
export function families(table, of) {
  table.classList.toggle("no-cascades", Object.values(of).every(({deferred, fallbacks}) => deferred === null && fallbacks === null));
  table.classList.toggle("no-exits", Object.values(of).every(({cut}) => cut === null));
  fill(table, Object.entries(of).map(([name, now]) => ({
    key: name,
    cells: [
      text(named(name, now), now.shifted ? "bad" : ""),
      text(format.rate(now.demand_qps)),
      text(format.duration(now.p99_s), now.p99_s > now.slo_s ? "bad" : ""),
      text(format.duration(now.slo_s)),
      text(format.percent(now.violations), now.violations > 0.01 ? "bad" : ""),
      text(estimate(now) + format.percent(now.accuracy)),
      text(estimate(now) + format.percent(now.relative_accuracy)),
      text(format.rate(now.throughput_qps)),
      text(format.rate(now.goodput_qps)),
      text(format.count(now.waiting)),
      text(format.percent(now.deferred), "of-cascades"),
      text(format.percent(now.fallbacks), "of-cascades"),
      text(format.percent(now.cut), "of-exits"),
    ],
  })));
}

// For each family its target, and what the plan in force expects; of the last minutes and since the start, the attainment and a bar of the budget.
export function attainment(table, of) {
  fill(table, Object.entries(of).map(([name, {attainment: all, recent_attainment: recent, expected_attainment: expected}]) => ({
    key: name,
    cells: [text(name), text(format.exactPercent(all.target)), text(format.hundredths(expected)), ...[recent, all].flatMap(attained)],
  })));
}

function attained({reached, met, error_budget_used: used}) {
  const className = met === false ? "bad" : "";
  return [text(format.hundredths(reached), className), {text: format.budget(used), className: `budget ${className}`, bar: used ?? 0}];
}

// Of each family its last roll-out: where it is, and what its guard has seen.
export function rollouts(table, of) {
  fill(table, of.map(({specification: {family, old, new: version, canary_fracs}, stage, step, share, counts, terms, ending, reason, note}) => ({
    key: family,
    cells: [
      text(family), text(version), text(old),
      text(ending ? `${ending}${reason && ` (${reason})`}${note && `: ${note}`}` : (stage === "canary" ? `canary ${step} of ${canary_fracs.length}` : stage) + (note && ` (${note})`), ending && ending !== "done" ? "bad" : ""),
      text(format.percent(share)), text(format.count(counts.canary)), text(format.count(counts.labelled)),
      text(terms.map(termSeen).join("; "), terms.some(({verdict}) => verdict === "fail") ? "bad" : ""),
    ],
  })));
}

// "accuracy >= old - 0.005: hold, 91.0 % [89.1 % – 92.6 %], old 92.0 % [91.2 % – 92.7 %]"
function termSeen({term, verdict, new: seen, old, new_interval: within, old_interval: oldWithin}) {
  const beside = old === null ? "" : `, old ${format.percent(old)}${interval(oldWithin)}`;
  return `${term}: ${verdict}${seen === null ? "" : `, ${format.percent(seen)}${interval(within)}${beside}`}`;
}

function interval(within) {
  return within ? ` [${within.map(format.percent).join(" – ")}]` : "";
}

export const BREAKERS = {
  closed: {label: "working", className: ""},
  open: {label: "✕ lost", className: "lost"},
  "half-open": {label: "◐ being tried out", className: "probation"},
};

// "✕ lost, trying again in 4 s (its process has ended)"; "working, without shapes-l (it cannot be loaded)". Of several
// variants, only the names; the status has the reasons.
function deviceState({breaker, reason, retry_s, broken, servers}) {
  const variants = Object.keys(broken), why = variants.length === 1 ? broken[variants[0]] : "";
  const without = variants.length ? `, without ${variants.join(", ")}${why && ` (${why})`}` : "";
  const retry = breaker === "open" && retry_s !== null ? `, trying again ${format.wait(retry_s)}` : "";
  return BREAKERS[breaker].label + format.shared(servers) + retry + (reason && ` (${reason})`) + without;
}

// Without a cluster the devices, the lost ones first; else under their hosts, of which many may be folded into one row.
export function devices(table, of, hosts, isOpen, onToggle) {
  if (Object.keys(hosts).length) {
    fill(table, [...inHosts.rows(of, hosts, isOpen)].map((row) => (
      row.device ? deviceRow(...row.device, row.level, row.group) : hostRow(row, () => onToggle(row.key, !row.isOpen))
    )));
    return;
  }
  const named = Object.entries(of);
  const rank = ([, {breaker}]) => ["open", "half-open", "closed"].indexOf(breaker);
  named.sort((one, other) => rank(one) - rank(other));  // stable: the lost first
  fill(table, named.map(([name, now]) => deviceRow(name, now)));
}

// Why a device of a lost host is lost, the row of the host says.
const deviceRow = (name, now, level = 0, group = null) => ({
  key: name,
  className: BREAKERS[now.breaker].className,
  cells: [
    text(name, level ? `level${level}` : ""),
    text(group?.isLost ? BREAKERS[now.breaker].label : deviceState(now), "text state"),
    text(now.variants.join(", ") || format.UNKNOWN, "text hosts"),
    text(now.warm.join(", ") || format.UNKNOWN, now.warm.length > 2 ? "text hosts many" : "text hosts"),
    text(String(now.cold)),
    {text: format.percent(now.load), bar: now.load},
    text(format.decimal(now.mean_batch)),
  ],
});

// A host, or several where all is well: their state, and what their devices host, with the means of these.
function hostRow({key, level, group = null, groups, isOpen}, onToggle) {
  const found = (groups ?? [group]).flatMap(({devices: named}) => named.map(([, now]) => now)), state = inHosts.hostState(group, found.length);
  const loads = found.map(({load}) => load), batches = found.map(({mean_batch: rows}) => rows).filter((rows) => rows !== null);
  const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
  const label = groups ? format.counted(groups.length, "host") : group.host ? `host ${group.name}` : "this machine";
  return {
    key,
    className: `host ${group?.isLost ? "lost" : ""}`,
    cells: [
      {text: label, className: level ? `level${level}` : "", toggle: {isOpen, onToggle}},
      text(state, "text state"),
      text(inHosts.hosted(found), "text hosts"),
      text("", "text"),
      text(""),
      {text: format.percent(mean(loads)), bar: mean(loads) ?? 0},
      text(format.decimal(mean(batches))),
    ],
  };
}

// Of the plan in force, with what is seen of it: how much of the rate a first stage was to defer, and what it does.
export function cascades(table, of) {
  fill(table, Object.entries(of).flatMap(([family, {cascades: used}]) => used.map((cascade) => ({
    key: [family, cascade.first, cascade.second, cascade.threshold].join(" "),
    cells: [
      text(family), text(`${cascade.first} → ${cascade.second}`, "text"), text(format.significant(cascade.threshold)),
      text(format.rate(cascade.rate_qps)), text(format.rate(cascade.deferred_qps)), text(format.percent(cascade.planned)),
      text(format.percent(cascade.observed)),
    ],
  }))));
}

// Of the plan in force: the part of the rows that each exit answered when it was profiled.
export function exits(table, of) {
  fill(table, Object.entries(of).flatMap(([family, {exits: hosted, stop_when: live, cut}]) => hosted.map(({variant, shares, cuts}) => ({
    key: `${family} ${variant}`,
    cells: [
      text(family), text(variant, "text"), text(shares.map(format.percent).join(", "), "text"),
      text(live ?? "as in the catalog", "text"), text(cuts ? format.percent(cut) : "never"),
    ],
  }))));
}

export function flows(table, columns) {
  table.classList.toggle("no-cascades", columns.deferred_qps.every((qps) => !qps));
  fill(table, columns.family.map((family, at) => ({
    key: [family, columns.variant[at], columns.device[at]].join(" "),
    cells: [
      text(family),
      text(columns.variant[at], "text"),
      text(columns.device[at], "text"),
      text(format.percent(columns.accuracy[at])),
      text(format.rate(columns.planned_qps[at])),
      text(format.rate(columns.deferred_qps[at]), "of-cascades"),
      text(format.rate(columns.answered_qps[at])),
    ],
  })));
}

export function events(list, of) {
  fillEvents(list, [...of].reverse());
  const ends = [...list.children].map((item) => item.offsetTop + item.offsetHeight - list.offsetTop);
  list.style.maxHeight = ends.length ? `${ends.findLast((end) => end <= EVENTS_HEIGHT) ?? ends[0]}px` : "";  // whole items
}

function fillEvents(list, newest) {
  if (list.dataset.last === String(newest.length && newest[0].unix_s) && list.children.length === newest.length) return;
  list.dataset.last = String(newest.length && newest[0].unix_s);
  list.replaceChildren(...newest.map(({unix_s, kind, text: label, reason}) =>
    element("li", {class: kind},
      element("time", {datetime: new Date(unix_s * 1000).toISOString()}, format.clock(unix_s)),
      element("span", {class: "kind"}, kind),
      element("span", {}, ...whole(label), ...(reason ? [element("span", {class: "why"}, ...whole(reason))] : [])))));
}
