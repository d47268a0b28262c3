// Devices of several slots: the scatter of throughput by running batches, the estimate by number, the knee, and what is used.

import * as format from "./format.js";
import {element, setText, svgElement} from "./tables.js";

const WIDTH = 300, HEIGHT = 170, LEFT = 40, BOTTOM = 30, TOP = 8, RIGHT = 8;

// of: {device: {opened, used, settled, busy, knee, levels, scatter, changes, trials, last}}
export function show(place, of) {
  const known = new Map([...place.children].map((figure) => [figure.dataset.device, figure]));
  for (const [device, now] of Object.entries(of)) {
    let figure = known.get(device);
    if (!figure) {
      figure = element("figure", {class: "chart", "data-device": device}, element("h3", {}, device), element("p", {class: "readout"}), element("div", {class: "slots"}));
      place.append(figure);
    }
    known.delete(device);
    const [, said, picture] = figure.children;
    setText(said, sentence(now));
    picture.replaceChildren(drawn(device, now));
  }
  for (const figure of known.values()) figure.remove();
}

// "uses 2 of 4 slots; knee 2; 3 changes, the last 12 s ago: fewer carry as much"
function sentence({opened, used, settled, knee, changes, last}) {
  const trial = used === settled ? "" : ` (${settled} apart from a trial)`;
  const change = last.length ? `, the last ${format.span(last.at(-1).ago_s)} ago: ${last.at(-1).reason}` : "";
  return `uses ${used} of ${format.counted(opened, "slot")}${trial}; knee ${knee ?? "not known yet"}; ${format.counted(changes, "change")}${change}`;
}

function drawn(device, {opened, used, knee, levels, scatter}) {
  const most = Math.max(1, ...scatter.throughput, ...levels.map(({throughput, error}) => throughput + 2 * error)) * 1.05;
  const x = (running) => LEFT + (running / (opened + 0.5)) * (WIDTH - LEFT - RIGHT);
  const y = (throughput) => HEIGHT - BOTTOM - (throughput / most) * (HEIGHT - BOTTOM - TOP);
  const svg = svgElement("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Throughput of ${device} by running batches`});
  for (let running = 0; running <= opened; running++) {
    svg.append(svgElement("line", {class: "grid", x1: x(running), x2: x(running), y1: TOP, y2: HEIGHT - BOTTOM}));
    svg.append(svgElement("text", {x: x(running), y: HEIGHT - BOTTOM + 13, "text-anchor": "middle"}, String(running)));
  }
  for (const part of [0, 0.5, 1]) {
    svg.append(svgElement("line", {class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(part), y2: y(part)}));
    svg.append(svgElement("text", {x: LEFT - 5, y: y(part) + 4, "text-anchor": "end"}, `${100 * part} %`));
  }
  svg.append(svgElement("text", {x: WIDTH - RIGHT, y: HEIGHT - 3, "text-anchor": "end"}, "batches that run at once"));
  svg.append(svgElement("line", {class: "used", x1: x(used), x2: x(used), y1: TOP, y2: HEIGHT - BOTTOM}));
  if (knee !== null) svg.append(svgElement("line", {class: "knee", x1: x(knee), x2: x(knee), y1: TOP, y2: HEIGHT - BOTTOM}));
  scatter.running.forEach((running, at) => svg.append(svgElement("circle", {class: "window", cx: x(running), cy: y(scatter.throughput[at]), r: 2.5})));
  if (levels.length > 1)
    svg.append(svgElement("polyline", {class: "fit", points: levels.map(({running, throughput}) => `${x(running)},${y(throughput)}`).join(" ")}));
  for (const {running, throughput, error} of levels) {
    svg.append(svgElement("line", {class: "fit", x1: x(running), x2: x(running), y1: y(Math.max(0, throughput - 2 * error)), y2: y(throughput + 2 * error)}));
    svg.append(svgElement("circle", {class: "level", cx: x(running), cy: y(throughput), r: 3.5}));
  }
  return svg;
}
