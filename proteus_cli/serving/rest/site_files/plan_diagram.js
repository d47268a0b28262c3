// The plan as a flow diagram: families → variants → devices → hosts, with bands as wide as their rates. Hosts are a
// column where there are several. Many devices share a node with all of their type, and many hosts share one, too.

import * as format from "./format.js";
import {hostOf} from "./hosts.js";
import {BREAKERS, svgElement} from "./tables.js";

const COLOURS = 7, NODE_WIDTH = 10, GAP = 8, MIN_HEIGHT = 17, MIN_BAND = 0.5, BANDS_HEIGHT = 260;
const MAX_DEVICES = 24, MAX_HOSTS = 16;  // with a node each
const NARROW = 560;

// Nodes and bands, without coordinates. Devices come in the order of the families that they serve, on hosts by host.
// `shown` is the column of flows that is the rate of bands. Nodes without any rate are idle. Without room for four
// columns, hosts take the place of devices.
export function graph({flows, families, devices, hosts}, shown, isNarrow = false) {
  const place = placing(devices, hosts, isNarrow), names = Object.keys(families);
  const columns = place.columns.map(() => []), bands = new Map(), nodes = new Map();
  const node = (column, key, more) => {
    const id = `${column} ${key}`;
    if (!nodes.has(id)) {
      nodes.set(id, {key, rate: 0, answered_qps: 0, planned_qps: 0, ...more});
      columns[column].push(nodes.get(id));
    }
    return nodes.get(id);
  };
  names.forEach((name, at) => node(0, name, {label: name, colour: at % COLOURS}));
  const order = flows.family.map((_, at) => at).sort((one, other) =>
    names.indexOf(flows.family[one]) - names.indexOf(flows.family[other]) || flows.accuracy[other] - flows.accuracy[one]);
  for (const at of order) {
    const family = node(0, flows.family[at]), rate = flows[shown][at], {colour} = family;
    const variant = node(1, `${flows.family[at]} ${flows.variant[at]}`,
      {label: flows.variant[at], more: format.percent(flows.accuracy[at]), colour});
    const path = [family, variant, ...place.nodes(flows.device[at]).map((more, column) => node(column + 2, more.key, more))];
    path.forEach((each, column) => {
      each.rate += rate;
      for (const rates of ["answered_qps", "planned_qps"]) each[rates] += flows[rates][at];
      if (column) join(bands, path[column - 1], each, rate, colour);
    });
  }
  for (const id of Object.keys(devices)) place.nodes(id).forEach((more, column) => node(column + 2, more.key, more));
  for (const name of Object.keys(hosts)) if (place.hosts) node(columns.length - 1, place.hosts(name).key, place.hosts(name));
  if (place.hosts) arrange(columns);
  return {columns, bands: [...bands.values()]};
}

function join(bands, from, to, rate, colour) {
  const key = `${from.key} → ${to.key} ${colour}`;
  if (!bands.has(key)) bands.set(key, {from, to, rate: 0, colour});
  bands.get(key).rate += rate;
}

// What stands for a device in the columns behind the variants: itself or its type, and where there are several, its host.
// Without a host that could stand for it, a device that is not well has a node of its own.
function placing(devices, hosts, isNarrow) {
  const ids = Object.keys(devices), machines = new Set([...ids.map(hostOf), ...Object.keys(hosts)]), isAlone = machines.size < 2;
  const isGrouped = (id) => ids.length > MAX_DEVICES && devices[id] && !(isAlone && devices[id].breaker !== "closed");
  const counts = new Map();
  for (const {type} of ids.filter(isGrouped).map((id) => devices[id])) counts.set(type, (counts.get(type) ?? 0) + 1);
  const ofType = (type) => ({key: `type ${type}`, label: `${format.count(counts.get(type))} × ${type}`});
  const ofDevice = (id) => ({key: `device ${id}`, label: id, host: hostOf(id), ...state(devices[id]?.breaker, id)});
  const ofId = (id) => (isGrouped(id) ? ofType(devices[id].type) : ofDevice(id));
  if (isAlone) return {columns: [0, 1, 2], nodes: (id) => [ofId(id)], hosts: null};
  const there = [...machines].filter((name) => hosts[name]?.state !== "lost");
  const all = {key: "hosts", label: format.counted(there.length, "host")};
  const ofHost = (name) => {
    const isLost = hosts[name]?.state === "lost", label = name || "this machine";
    if (!isLost && machines.size > MAX_HOSTS) return all;
    return {key: `host ${name}`, host: name, label, ...state(isLost ? "open" : "closed", label)};
  };
  return {
    columns: isNarrow ? [0, 1, 2] : [0, 1, 2, 3],
    nodes: (id) => (isNarrow ? [ofHost(hostOf(id))] : [ofId(id), ofHost(hostOf(id))]),
    hosts: ofHost,
  };
}

const state = (breaker, label) => (
  {breaker, ...(breaker && breaker !== "closed" ? {label: `${breaker === "open" ? "✕ " : "◐ "}${label}`} : {})}
);

// Hosts by name, the lost ones last, and devices in the order of their hosts.
function arrange(columns) {
  const last = columns.at(-1), isLost = ({breaker}) => breaker === "open", name = ({host}) => host ?? "";
  last.sort((one, other) => isLost(one) - isLost(other) || name(one).localeCompare(name(other), "en", {numeric: true}));
  const at = new Map(last.map(({host}, place) => [host, place]));
  if (columns.length === 4) columns[2].sort((one, other) => (at.get(one.host) ?? 0) - (at.get(other.host) ?? 0));
}

export function show(place, found, shown) {
  const none = shown === "answered_qps" ? "0 answered" : "0 planned";
  const width = Math.max(280, place.clientWidth), isNarrow = width < NARROW;
  const {columns, bands} = graph(found, shown, isNarrow);
  const total = columns[0].reduce((sum, {rate}) => sum + rate, 0);
  const scale = total ? BANDS_HEIGHT / total : 0;
  for (const column of columns) for (const node of column) node.height = Math.max(MIN_HEIGHT, node.rate * scale);
  const heights = columns.map((column) => column.reduce((sum, {height}) => sum + height + GAP, -GAP));
  const height = Math.max(...heights, MIN_HEIGHT);
  const edges = columnEdges(columns.length, width, isNarrow);
  columns.forEach((column, at) => stack(column, edges[at], (height - heights[at]) / 2, scale));
  const band = ({from, to, rate, colour}) => {
    const thick = rate * scale, isIdle = thick < MIN_BAND, one = from.x + NODE_WIDTH, other = to.x, bend = (one + other) / 2;
    const top = from.out, below = to.into;
    if (!isIdle) { from.out += thick; to.into += thick; }
    const tooltip = svgElement("title", {}, `${from.label} → ${to.label}: ${format.rate(rate)} qps`);
    const there = `M${one} ${top}C${bend} ${top} ${bend} ${below} ${other} ${below}`;
    if (isIdle) return svgElement("path", {class: `idle f${colour}`, d: there}, tooltip);
    return svgElement("path", {
      class: `band f${colour}`,
      d: `${there}v${thick}C${bend} ${below + thick} ${bend} ${top + thick} ${one} ${top + thick}z`,
    }, tooltip);
  };
  const svg = svgElement("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summary(columns, total, found),
  }, ...bands.map(band), ...columns.flatMap((column, at) => column.map((node) => {
    const isIdle = node.rate * scale < MIN_BAND;
    return nodeElement(node, at, isNarrow, edges[at + 1] - edges[at], isIdle ? none : "");
  })));
  place.replaceChildren(svg);
  const thin = columns.flat().filter((node) => node.rate * scale < MIN_HEIGHT);
  for (const {element} of thin) clear(element.querySelector("text"));
}

// Where the columns begin; at the end, the width.
function columnEdges(count, width, isNarrow) {
  if (count === 4) return [0, Math.round(width * 0.29), Math.round(width * 0.58), width - 170, width];
  return [0, Math.round(width * (isNarrow ? 0.4 : 0.44)), width - (isNarrow ? 92 : 170), width];
}

// Clear what is behind a text, as a band that is thinner would strike it through.
function clear(text) {
  const {x, y, width, height} = text.getBBox();
  text.before(svgElement("rect", {class: "behind", x: x - 2, y, width: width + 4, height}));
}

// Nodes below one another; bands leave and enter from the middle of what they need.
function stack(column, x, top, scale) {
  for (const node of column) {
    const first = top + (node.height - node.rate * scale) / 2;
    Object.assign(node, {x, y: top, out: first, into: first});
    top += node.height + GAP;
  }
}

// `width` is that of the column; `idle` says so of a node without any rate, and is empty of others.
function nodeElement(node, column, isNarrow, width, idle) {
  const room = width - NODE_WIDTH - 10;
  const texts = [node.label, ...(isNarrow ? [] : [node.more ?? "", column === 1 ? idle : rates(node)])].filter(Boolean);
  const label = svgElement("text", {x: node.x + NODE_WIDTH + 5, y: node.y + node.height / 2, dy: ".35em"}, fitted(texts[0], room));
  if (texts.length > 1 && (texts.join(" ").length * 7.2) < room) label.append(svgElement("tspan", {class: "soft", dx: 6}, texts.slice(1).join(", ")));
  const bar = {class: node.colour === undefined ? "bar" : `bar f${node.colour}`, x: node.x + 0.5, y: node.y, width: NODE_WIDTH - 1, height: node.height, rx: 2};
  const isLost = node.breaker === "open";
  node.element = svgElement("g", {class: isLost ? "lost" : idle && "empty"}, svgElement("rect", bar), label,
    svgElement("title", {}, `${node.label}: ${rates(node)}${node.breaker ? `, ${BREAKERS[node.breaker].label}` : ""}`));
  return node.element;
}

const rates = ({answered_qps, planned_qps}) => `${format.rate(answered_qps)} of ${format.rate(planned_qps)} qps`;

const fitted = (label, room) => (label.length * 7.2 <= room ? label : `${label.slice(0, Math.max(3, Math.floor(room / 7.2) - 1))}…`);

function summary([families, variants], total, {devices, hosts}) {
  const lost = Object.values(devices).filter(({breaker}) => breaker === "open").length, count = Object.keys(devices).length;
  const on = Object.keys(hosts).length ? ` of ${format.counted(Object.keys(hosts).length, "host")}` : "";
  return `Plan: ${format.counted(families.length, "family", "families")} answered by ${format.counted(variants.length, "variant")} on ` +
    `${format.counted(count, "device")}${on}` +
    `${lost ? `, of which ${lost} lost` : ""}; ${format.rate(total)} qps in all. The table below has the same.`;
}
