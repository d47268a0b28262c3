// Charts over time, drawn by uPlot, with marks for changes; and their values as text, for keys and screen readers.

import * as format from "./format.js";
import {OUTCOMES, marks, means, scaled, stacked} from "./series.js";
import {element, svgElement} from "./tables.js";

const COLOURS = 7, DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
// One cursor for all charts, by pointer or keys: uPlot's own listeners are left out.
const UNBOUND = Object.fromEntries(["mousemove", "mouseenter", "mouseleave", "mousedown", "mouseup", "click", "dblclick"].map((name) => [name, () => null]));
const HEIGHT = 190, MIN_SPAN_S = 120, SAMPLES_PER_ROW = 30, MARK_WIDTH = 14;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// The line of the family with that index; dashes tell lines apart without colours.
const lineStyle = (place) => ({colour: `line${place % COLOURS}`, dash: DASHES[place % DASHES.length]});

// Each kind of chart: its lines {label, colour, dash, fill, values}, for one family or, where that is "", for all.
// `fill` is the opacity of the area below a line, in hexadecimal; where lines are `stacked`, it ends at the next line.
export const KINDS = [
  {
    id: "demand", title: "Demand and throughput", unit: "qps", write: format.rate,
    lines: (series, family) => [
      {label: "demand", colour: "line6", dash: [], fill: "30", values: series.column("demand_qps", family)},
      {label: "throughput", ...lineStyle(0), values: series.column("throughput_qps", family)},
      {label: "on time", colour: "line2", dash: [7, 4], values: series.column("goodput_qps", family)},
    ],
  },
  {
    id: "variants", title: "Which variant answered", unit: "requests in time per second, stacked", write: format.rate, stacked: true,
    lines: (series, family, history) => {
      const answering = selectedFamilies(history, family).flatMap(([name, {variants}, place]) => {
        const found = Object.keys(variants).filter((variant) => series.variants[name]?.[variant]?.some((qps) => qps > 0));
        return found.map((variant, rank) => ({label: variantLabel(history, name, variant), colour: `line${place % COLOURS}`, fill: shade(rank), values: series.variants[name][variant]}));
      }).reverse();  // the most accurate of the first family at the bottom
      const heights = stacked(answering.map(({values}) => values));
      return answering.map(({values, ...line}, place) => ({...line, dash: [], values: heights[place], shown: values}));
    },
  },
  {
    id: "violations", title: "SLO violations", unit: "requests per second, stacked", write: format.rate, stacked: true,
    lines: (series, family) => {
      const values = OUTCOMES.map((outcome) => series.column(`${outcome}_qps`, family)), heights = stacked(values);
      return OUTCOMES.map((outcome, place) => (
        {label: outcome, colour: outcome, dash: DASHES[place], fill: "c0", values: heights[place], shown: values[place]}
      ));
    },
  },
  {
    id: "accuracy", title: "Relative accuracy", unit: "% of the best variant's", write: (value) => format.percent(value === null ? null : value / 100),
    max: 100,
    lines: (series, family, history) => selectedFamilies(history, family).map(([name, of, place]) => (
      {label: name, ...lineStyle(place), values: scaled(series.families[name].accuracy, 100 / of.best_accuracy)}
    )),
  },
  {
    id: "p99", title: "p99 against the SLO", unit: (family) => (family ? "ms" : "% of the SLO"),
    write: (value) => format.decimal(value), min: 0,
    lines: (series, family, history) => [
      ...selectedFamilies(history, family).map(([name, of, place]) => (
        {label: name, ...lineStyle(place), values: scaled(series.families[name].p99_s, family ? 1000 : 100 / of.slo_s)}
      )),
      {
        label: "SLO", colour: "failed", dash: [2, 3],
        values: series.unix_s.map(() => (family ? history.families[family].slo_s * 1000 : 100)),
      },
    ],
  },
];

// The opacity of a family's variants, of which the most accurate has rank 0.
const shade = (rank) => Math.round(230 * 0.62 ** rank).toString(16).padStart(2, "0");

// With its family, where another one has a variant of that name; devices and changes come with such labels.
const variantLabel = ({families}, family, variant) => {
  const isUnique = Object.entries(families).every(([other, {variants}]) => other === family || !(variant in variants));
  return isUnique ? variant : `${family}/${variant}`;
};

const selectedFamilies = (history, family) => (
  Object.entries(history.families).map(([name, of], place) => [name, of, place]).filter(([name]) => !family || name === family)
);

export class Chart {
  constructor(kind, onCursor) {
    this.kind = kind;
    this.onCursor = onCursor;
    this.plot = null;
    this.lines = [];
    const id = `chart-${kind.id}`;
    this.unit = element("small");
    this.legend = element("ul", {class: "legend"});
    this.place = element("div", {class: "plot", role: "img", tabindex: "0", "aria-describedby": `${id}-now`});
    this.readout = element("p", {class: "readout", id: `${id}-now`, role: "status"});
    this.table = element("table");
    this.details = element("details", {}, element("summary", {}, `${kind.title} as a table`),
      element("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": `${kind.title} as a table`}, this.table));
    this.figure = element("figure", {class: "chart", id, "aria-labelledby": `${id}-title`},
      element("h3", {id: `${id}-title`}, `${kind.title} `, this.unit), this.legend, this.place, this.readout, this.details);
    this.details.addEventListener("toggle", () => this.fillTable());
    this.place.addEventListener("keydown", (event) => this.onKey(event));
    this.place.addEventListener("blur", () => this.onCursor(null));
    new ResizeObserver(() => this.plot?.setSize({width: this.place.clientWidth, height: HEIGHT})).observe(this.place);
  }

  // Show what `series` has; `history` is the last answer of the server.
  show(series, family, history) {
    this.series = series;
    // In the first minutes, charts fill from the left.
    this.from_s = history.unix_s - Math.min(history.keeps_s, history.uptime_s);
    this.to_s = Math.max(history.unix_s, this.from_s + MIN_SPAN_S);
    this.lines = this.kind.lines(series, family, history);
    const unit = typeof this.kind.unit === "string" ? this.kind.unit : this.kind.unit(family);
    const shape = JSON.stringify([unit, this.lines.map(({label, colour: of, dash, fill}) => [label, of, dash, fill])]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.unit.textContent = unit;
      this.build();
    }
    this.plot.setData([series.unix_s, ...this.lines.map(({values}) => values)]);
    this.place.setAttribute("aria-label", this.summary());
    this.fillTable();
  }

  // Build the chart again, as its lines or the colours of the page have changed.
  build() {
    this.plot?.destroy();
    const axis = {
      stroke: colour("soft"), font: "12px system-ui, sans-serif", ticks: {stroke: colour("rule"), width: 1},
      grid: {stroke: colour("grid"), width: 1},
    };
    const {min, max} = this.kind, bands = this.kind.stacked ? this.lines.slice(1).map((_, place) => ({series: [place + 1, place + 2]})) : [];
    this.plot = new uPlot({
      width: this.place.clientWidth || 300,
      height: HEIGHT,
      legend: {show: false},
      padding: [18, 34, 0, 0],  // counts of marks; half a label of the time axis
      cursor: {drag: {x: false, y: false}, y: false, points: {size: 7}, bind: UNBOUND},
      bands,
      scales: {x: {range: () => [this.from_s, this.to_s]}, y: {range: (_, low, high) => ranged(low, high, min, max)}},
      axes: [
        {...axis, space: 70, size: 30, values: (_, times) => times.map((time) => format.clock(time).slice(0, this.to_s - this.from_s < 300 ? 8 : 5))},
        {...axis, size: 52, values: (_, values) => values.map((value) => value.toLocaleString("en"))},
      ],
      series: [{}, ...this.lines.map(({label, colour: of, dash, fill}) => ({
        label, stroke: colour(of), dash, width: fill ? 1 : 2, points: {show: false},
        ...(fill ? {fill: `${colour(of)}${fill}`} : {}),
      }))],
      hooks: {draw: [(plot) => this.drawMarks(plot)]},
    }, [[], ...this.lines.map(() => [])], this.place);
    this.plot.over.addEventListener("pointermove", ({offsetX}) => this.onCursor(this.plot.posToIdx(offsetX)));
    this.plot.over.addEventListener("pointerleave", () => this.onCursor(null));
    this.legend.replaceChildren(...this.lines.map(({label, colour: of, dash, fill}) =>
      element("li", {}, svgElement("svg", {viewBox: "0 0 29 12", "aria-hidden": "true"},
        svgElement("line", {x1: 0, x2: 29, y1: 6, y2: 6, stroke: colour(of), "stroke-width": fill ? 8 : 2.5, "stroke-opacity": fill ? Math.max(0.2, parseInt(fill, 16) / 255) : 1,
          "stroke-dasharray": fill ? "" : dash.join(" ")})), label)));
  }

  drawMarks({ctx, bbox}) {
    const {left, top, width, height} = bbox, ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${10 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    const placed = (this.series?.events ?? []).map(({unix_s, kind}) => ({at: Math.round(this.plot.valToPos(unix_s, "x", true)), kind}));
    for (const {at: x, kind, count} of marks(placed.filter(({at}) => at >= left && at <= left + width), MARK_WIDTH * ratio)) {
      const isPlan = kind === "plan";
      ctx.strokeStyle = ctx.fillStyle = colour(isPlan ? "mark" : "mark-device");
      ctx.lineWidth = (isPlan ? 1.25 : 2) * ratio;
      ctx.setLineDash(isPlan ? [4 * ratio, 3 * ratio] : []);
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
      ctx.beginPath();  // a shape besides the colour: ▼ a plan, ■ a device
      const size = 4 * ratio;
      if (isPlan) { ctx.moveTo(x - size, top - size); ctx.lineTo(x + size, top - size); ctx.lineTo(x, top + size); }
      else ctx.rect(x - size, top - size, 2 * size, 2 * size);
      ctx.fill();
      if (count > 1) ctx.fillText(count, x, top - size - 3 * ratio);
    }
    ctx.restore();
  }

  // Show the values of one sample; null: of no sample.
  point(at) {
    this.at = at;
    if (!this.plot) return;
    const time_s = at === null ? undefined : this.series.unix_s[at];
    if (time_s === undefined) {
      this.readout.textContent = "";
      this.plot.setCursor({left: -10, top: -10}, false);
      return;
    }
    this.plot.setCursor({left: this.plot.valToPos(time_s, "x"), top: 10}, false);
    const texts = this.lines.map(({label, values, shown}) => `${label} ${this.kind.write((shown ?? values)[at])}`);
    const near = this.series.events.filter(({unix_s}) => Math.abs(unix_s - time_s) <= 1).map(({kind, text, reason}) => `${kind}: ${[text, reason].filter(Boolean).join(". ")}`);
    this.readout.textContent = [format.clock(time_s), ...texts, ...near].join(" · ");
  }

  onKey(event) {
    const last = this.series.unix_s.length - 1, step = event.shiftKey ? 30 : 1, at = this.at ?? last + 1;
    const to = {ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: last, Escape: null}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.onCursor(to === null ? null : Math.max(0, Math.min(last, to)));
  }

  summary() {
    const texts = this.lines.map(({label, values, shown}) => {
      const known = (shown ?? values).filter((value) => value !== null);
      if (!known.length) return `${label}: nothing yet`;
      const [min, max] = known.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
      return `${label}: ${this.kind.write(known.at(-1))} now, between ${this.kind.write(min)} and ${this.kind.write(max)}`;
    });
    return `Chart of the last 15 minutes, in ${this.unit.textContent}. ${texts.join("; ")}. The table below has the same.`;
  }

  fillTable() {
    if (!this.details.open || !this.series) return;
    const rows = means(this.series.unix_s, this.lines.map(({values, shown}) => shown ?? values), SAMPLES_PER_ROW).reverse();
    const head = ["from", ...this.lines.map(({label}) => label)];
    this.table.replaceChildren(
      element("caption", {class: "note"}, `means over ${SAMPLES_PER_ROW} s, newest first; ${this.unit.textContent}`),
      element("thead", {}, element("tr", {}, ...head.map((label) => element("th", {scope: "col"}, label)))),
      element("tbody", {}, ...rows.map(({unix_s, values}) => element("tr", {},
        element("th", {scope: "row"}, format.clock(unix_s)),
        ...values.map((value) => element("td", {}, this.kind.write(value)))))));
  }
}

// The range of the y axis: from 0, unless all values are close to `max`; with a margin.
function ranged(low, high, min = 0, max = null) {
  if (low === null) return max === null ? [0, 1] : [max - 1, max];
  if (max !== null) return [Math.min(low - (max - low) * 0.1, max - 1), max + (max - Math.min(low, max - 1)) * 0.05];
  return [min, high > min ? high * 1.08 : min + 1];
}
