// The page: one answer of the feed a second, shown everywhere it belongs.

import {Chart, KINDS} from "./charts.js";
import {Feed} from "./feed.js";
import * as picture from "./picture.js";
import {Series} from "./series.js";
import * as tables from "./tables.js";
import {element, say} from "./tables.js";
import * as words from "./words.js";

const at = (id) => document.getElementById(id);
const CHANGE_NEWS_S = 60;
const STATES = {ready: "ready", starting: "wait", draining: "wait", gone: "lost"};

const series = new Series(), choice = at("family");
const news = {};  // what was said last
let told = null, lostSince_s = 0, pointed_s = null, drawnWidth = 0;

const charts = KINDS.map((kind) => new Chart(kind, pointAll));
at("charts").append(...charts.map(({figure}) => figure));

// Show the values of one sample in all charts; null: of none.
function pointAll(sample) {
  pointed_s = series.unix_s[sample] ?? null;
  pointAgain();
}

function pointAgain() {
  const at = pointed_s === null ? -1 : series.unix_s.indexOf(pointed_s);  // it moves, and is forgotten in the end
  for (const chart of charts) chart.point(at < 0 ? null : at);
}

const feed = new Feed({data: onData, lost: onLost, locked: onLocked});

function onData(found) {
  told = found;
  series.append(found);
  at("main").hidden = false;
  at("door").hidden = true;
  if (lostSince_s) announce("The server answers again.");
  else if (found.state === "draining" && news.state === "ready") announce("The server is draining.");
  lostSince_s = 0;
  news.state = found.state;
  banner(found.state === "draining" ? "The server is draining: it takes no more requests, and will be gone." : "", "wait");
  badge(found.state, STATES[found.state] ?? "wait");
  if (found.complete) show();
}

function onLost(wait_s) {
  if (!lostSince_s) {
    lostSince_s = Date.now() / 1000;
    announce("The server doesn't answer.");
  }
  badge("not reachable", "lost");
  banner(`The server doesn't answer since ${words.clock(lostSince_s)}; what is shown is older. Asking again every ${wait_s} s.`);
}

function onLocked(wasRefused) {
  badge("locked", "wait");
  at("main").hidden = true;
  at("door").hidden = false;
  banner(wasRefused ? "The server doesn't know this token." : "", "wait");
  at("token").focus();
}

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = at("token").value.trim();
  at("token").value = "";
  if (/^[\x21-\x7e]+$/.test(token)) feed.unlock(token);
  else banner("A token has only ASCII characters, and no spaces.", "wait");
});

function show() {
  const {families, devices, flows} = told;
  facts();
  options(Object.keys(families));
  tables.families(at("families"), families);
  tables.devices(at("devices"), devices);
  tables.flows(at("flows"), flows);
  tables.events(at("events"), series.events);
  at("no-events").hidden = series.events.length > 0;
  for (const chart of charts) chart.show(series, choice.value, told);
  pointAgain();
  drawPicture();
  tellLosses(devices);
  tellChanges();
}

function drawPicture() {
  drawnWidth = at("picture").clientWidth;
  picture.show(at("picture"), told.flows, Object.keys(told.families), told.devices);
}

function facts() {
  const said = {
    version: told.version, policy: told.policy, up: words.span(told.uptime_s), "in flight": words.count(told.inside),
    families: String(Object.keys(told.families).length), devices: String(Object.keys(told.devices).length),
  };
  const list = at("facts");
  if (!list.children.length)
    list.append(...Object.keys(said).map((term) => element("div", {}, element("dt", {}, term), element("dd"))));
  Object.values(said).forEach((text, place) => say(list.children[place].lastElementChild, text));
  at("emulated").hidden = at("emulated-note").hidden = !told.emulated;
  const title = `${told.emulated ? "EMULATED · " : ""}Proteus`;
  if (document.title !== title) document.title = title;
}

function options(names) {
  const known = [...choice.options].slice(1).map(({value}) => value);
  if (known.join("\n") === names.join("\n")) return;
  const chosen = choice.value;
  choice.replaceChildren(element("option", {value: ""}, "all"), ...names.map((name) => element("option", {value: name}, name)));
  choice.value = names.includes(chosen) ? chosen : "";
}

function tellLosses(devices) {
  const lost = Object.entries(devices).filter(([, {breaker}]) => breaker === "open").map(([name]) => name);
  at("lost").hidden = !lost.length;
  say(at("lost"), lost.length ? `${lost.length} lost` : "");
  const before = news.lost ?? lost, gone = lost.filter((name) => !before.includes(name)), back = before.filter((name) => !lost.includes(name));
  if (gone.length) announce(`Lost: ${gone.join(", ")}.`);
  if (back.length) announce(`No longer lost: ${back.join(", ")}.`);
  news.lost = lost;
}

// Under changing demand plans change every few seconds: not all of that is news.
function tellChanges() {
  const last = series.events.findLast(({kind}) => kind === "plan")?.unix_s ?? 0;
  if (news.change !== undefined && last > news.change + CHANGE_NEWS_S) {
    announce("The plan changed; the list of what changed says why.");
    news.change = last;
  }
  news.change ??= last;
}

// For screen readers, and only what matters.
function announce(text) {
  at("news").textContent = text;
}

function banner(text, className = "") {
  const place = at("banner");
  place.className = `banner ${className}`;
  say(place, text);
  place.hidden = !text;
}

function badge(text, className) {
  const place = at("state");
  place.className = `badge ${className}`;
  say(place, text);
}

choice.addEventListener("change", () => told && show());
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"])
  matchMedia(query).addEventListener("change", () => {
    for (const chart of charts) chart.shape = "";
    if (told) show();
  });
new ResizeObserver(() => { if (told && at("picture").clientWidth !== drawnWidth) drawPicture(); }).observe(at("picture"));

feed.ask();
