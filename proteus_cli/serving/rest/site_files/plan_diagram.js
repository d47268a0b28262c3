// The plan as a flow diagram: families → variants → devices, with bands as wide as their rates.

import * as format from "./format.js";
import {BREAKERS, svgElement} from "./tables.js";

const COLOURS = 7, NODE_WIDTH = 10, GAP = 8, MIN_HEIGHT = 17, MIN_BAND = 0.5, BANDS_HEIGHT = 260;

// Nodes and bands, without coordinates. Devices come in the order of the families that they serve. `shown` is the column
// of flows that is the rate of bands. Nodes without any rate are idle.
export function graph(flows, families, devices, shown) {
  const columns = [[], [], []], bands = [], nodes = new Map();
  const node = (column, key, more) => {
    const id = `${column} ${key}`;
    if (!nodes.has(id)) {
      nodes.set(id, {key, rate: 0, answered_qps: 0, planned_qps: 0, ...more});
      columns[column].push(nodes.get(id));
    }
    return nodes.get(id);
  };
  families.forEach((name, place) => node(0, name, {label: name, colour: place % COLOURS}));
  const order = flows.family.map((_, at) => at).sort((one, other) =>
    families.indexOf(flows.family[one]) - families.indexOf(flows.family[other]) || flows.accuracy[other] - flows.accuracy[one]);
  for (const at of order) {
    const family = node(0, flows.family[at]), rate = flows[shown][at], {colour} = family;
    const variant = node(1, `${flows.family[at]} ${flows.variant[at]}`,
      {label: flows.variant[at], more: format.percent(flows.accuracy[at]), colour});
    const device = node(2, flows.device[at], {label: flows.device[at]});
    for (const each of [family, variant, device]) {
      each.rate += rate;
      for (const column of ["answered_qps", "planned_qps"]) each[column] += flows[column][at];
    }
    const known = bands.find((band) => band.from === family && band.to === variant);
    if (known) known.rate += rate;
    else bands.push({from: family, to: variant, rate, colour});
    bands.push({from: variant, to: device, rate, colour});
  }
  for (const [name, {breaker}] of Object.entries(devices)) {
    const device = node(2, name, {label: name});
    device.breaker = breaker;
    if (breaker !== "closed") device.label = `${breaker === "open" ? "✕ " : "◐ "}${name}`;
  }
  return {columns, bands};
}

export function show(place, flows, families, devices, shown) {
  const none = shown === "answered_qps" ? "0 answered" : "0 planned";
  const width = Math.max(280, place.clientWidth), isNarrow = width < 560;
  const {columns, bands} = graph(flows, families, devices, shown);
  const total = columns[0].reduce((sum, {rate}) => sum + rate, 0);
  const scale = total ? BANDS_HEIGHT / total : 0;
  for (const column of columns) for (const node of column) node.height = Math.max(MIN_HEIGHT, node.rate * scale);
  const heights = columns.map((column) => column.reduce((sum, {height}) => sum + height + GAP, -GAP));
  const height = Math.max(...heights, MIN_HEIGHT);
  const middle = Math.round(width * (isNarrow ? 0.4 : 0.44)), last = width - (isNarrow ? 92 : 170);
  [0, middle, last].forEach((x, at) => stack(columns[at], x, (height - heights[at]) / 2, scale));
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
    viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summary(columns, total, devices),
  }, ...bands.map(band), ...columns.flatMap((column, at) => column.map((node) => {
    const isIdle = node.rate * scale < MIN_BAND;
    return nodeElement(node, at, isNarrow, {middle, last, width}, isIdle ? none : "");
  })));
  place.replaceChildren(svg);
  const thin = columns.flat().filter((node) => node.rate * scale < MIN_HEIGHT);
  for (const {element} of thin) clear(element.querySelector("text"));
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

// `idle` says so of a node without any rate; it is empty of others.
function nodeElement(node, column, isNarrow, {middle, last, width}, idle) {
  const room = [middle, last - middle, width - last][column] - NODE_WIDTH - 10;
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

function summary([families, variants, hosts], total, devices) {
  const lost = Object.values(devices).filter(({breaker}) => breaker === "open").length;
  return `Plan: ${format.counted(families.length, "family", "families")} answered by ${format.counted(variants.length, "variant")} on ` +
    `${format.counted(hosts.length, "device")}` +
    `${lost ? `, of which ${lost} lost` : ""}; ${format.rate(total)} qps in all. The table below has the same.`;
}
