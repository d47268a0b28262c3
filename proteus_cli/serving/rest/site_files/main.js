// The page: asks the server for its history once a second, and shows it.

import {Chart, KINDS} from "./charts.js";
import {Feed} from "./feed.js";
import * as format from "./format.js";
import * as inHosts from "./hosts.js";
import * as diagram from "./plan_diagram.js";
import {Series} from "./series.js";
import * as slots from "./slots.js";
import * as tables from "./tables.js";
import {element, setText} from "./tables.js";

const byId = (id) => document.getElementById(id);
const CHANGE_PAUSE_S = 60;
const STATES = {ready: "ready", starting: "wait", draining: "wait", gone: "lost"};

const series = new Series(), choice = byId("family"), rates = byId("rates");
const announced = {};  // the state, losses and change that screen readers were told last
const chosenRows = new Map();  // of the table of devices: what a person has opened or closed
let latest = null, unreachableSince_s = 0, pointed_s = null, diagramWidth = 0;

const charts = KINDS.map((kind) => new Chart(kind, pointAt));
byId("charts").append(...charts.map(({figure}) => figure));

// Show the values of one sample in all charts; null: of no sample.
function pointAt(sample) {
  pointed_s = series.unix_s[sample] ?? null;
  updatePointer();
}

function updatePointer() {
  const index = pointed_s === null ? -1 : series.unix_s.indexOf(pointed_s);  // it moves as samples come and go
  for (const chart of charts) chart.point(index < 0 ? null : index);
}

const feed = new Feed({onData, onUnreachable, onLocked});

function onData(found) {
  latest = found;
  series.append(found);
  byId("main").hidden = false;
  byId("token-form").hidden = true;
  if (unreachableSince_s) announce("The server answers again.");
  else if (found.state === "draining" && announced.state === "ready") announce("The server is draining.");
  unreachableSince_s = 0;
  announced.state = found.state;
  banner(found.state === "draining" ? "The server is draining: it takes no more requests, and will be gone." : "", "wait");
  badge(found.state, STATES[found.state] ?? "wait");
  if (found.complete) show();
}

function onUnreachable(wait_s) {
  if (!unreachableSince_s) {
    unreachableSince_s = Date.now() / 1000;
    announce("The server doesn't answer.");
  }
  badge("not reachable", "lost");
  banner(`The server doesn't answer since ${format.clock(unreachableSince_s)}; what is shown is older. Asking again every ${wait_s} s.`);
}

function onLocked(wasRefused) {
  badge("locked", "wait");
  byId("main").hidden = true;
  byId("token-form").hidden = false;
  banner(wasRefused ? "The server doesn't know this token." : "", "wait");
  byId("token").focus();
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  if (/^[\x21-\x7e]+$/.test(token)) feed.unlock(token);
  else banner("A token has only ASCII characters, and no spaces.", "wait");
});

function show() {
  const {families, devices, hosts, flows} = latest;
  showFacts();
  updateFamilyChoice(Object.keys(families));
  tables.families(byId("families"), families);
  tables.attainment(byId("attainment"), families);
  byId("rollouts-section").hidden = !latest.rollouts.length;
  tables.rollouts(byId("rollouts"), latest.rollouts);
  const tuned = Object.entries(devices).filter(([, {slots: known}]) => known).map(([name, {slots: known}]) => [name, known]);
  byId("slots-section").hidden = !tuned.length;
  slots.show(byId("slots"), Object.fromEntries(tuned));
  tables.devices(byId("devices"), devices, hosts, (key, otherwise) => chosenRows.get(key) ?? otherwise, toggleRow);
  tables.flows(byId("flows"), flows);
  byId("cascades-section").hidden = Object.values(families).every(({cascades}) => !cascades.length);
  tables.cascades(byId("cascades"), families);
  byId("exits-section").hidden = Object.values(families).every(({exits}) => !exits.length);
  tables.exits(byId("exits"), families);
  tables.events(byId("events"), series.events);
  byId("devices").closest(".side-by-side").classList.toggle("in-hosts", Object.keys(hosts).length > 0);
  byId("no-events").hidden = series.events.length > 0;
  for (const chart of charts) chart.show(series, choice.value, latest);
  updatePointer();
  drawDiagram();
  announceLosses(devices, hosts);
  announceChanges();
}

function toggleRow(key, isOpen) {
  chosenRows.set(key, isOpen);
  show();
}

function drawDiagram() {
  diagramWidth = byId("diagram").clientWidth;
  diagram.show(byId("diagram"), latest, rates.value);
}

function showFacts() {
  const values = {
    version: latest.version, policy: latest.policy, up: format.span(latest.uptime_s), "in flight": format.count(latest.inside),
    families: String(Object.keys(latest.families).length), devices: String(Object.keys(latest.devices).length),
  };
  const hosts = Object.keys(latest.hosts).length;
  if (hosts) values.hosts = String(hosts);
  const list = byId("facts");
  if (!list.children.length)
    list.append(...Object.keys(values).map((term) => element("div", {}, element("dt", {}, term), element("dd"))));
  Object.values(values).forEach((text, place) => setText(list.children[place].lastElementChild, text));
  byId("emulated").hidden = byId("emulated-note").hidden = !latest.emulated;
  const title = `${latest.emulated ? "EMULATED · " : ""}Proteus`;
  if (document.title !== title) document.title = title;
}

function updateFamilyChoice(names) {
  const known = [...choice.options].slice(1).map(({value}) => value);
  if (known.join("\n") === names.join("\n")) return;
  const chosen = choice.value;
  choice.replaceChildren(element("option", {value: ""}, "all"), ...names.map((name) => element("option", {value: name}, name)));
  choice.value = names.includes(chosen) ? chosen : "";
}

function announceLosses(devices, hosts) {
  const lost = Object.entries(devices).filter(([, {breaker}]) => breaker === "open").map(([name]) => name);
  const said = inHosts.lost(devices, hosts);
  byId("lost").hidden = !said;
  setText(byId("lost"), said ? `${said} lost` : "");
  const before = announced.lost ?? lost, gone = lost.filter((name) => !before.includes(name)), back = before.filter((name) => !lost.includes(name));
  if (gone.length) announce(`Lost: ${inHosts.shortNames(gone, devices).join(", ")}.`);
  if (back.length) announce(`No longer lost: ${inHosts.shortNames(back, devices).join(", ")}.`);
  announced.lost = lost;
}

// Under changing demand plans change every few seconds, so not every change is announced.
function announceChanges() {
  const last = series.events.findLast(({kind}) => kind === "plan")?.unix_s ?? 0;
  if (announced.change !== undefined && last > announced.change + CHANGE_PAUSE_S) {
    announce("The plan changed; the list of what changed says why.");
    announced.change = last;
  }
  announced.change ??= last;
}

// For screen readers.
function announce(text) {
  byId("news").textContent = text;
}

function banner(text, className = "") {
  const place = byId("banner");
  place.className = `banner ${className}`;
  setText(place, text);
  place.hidden = !text;
}

function badge(text, className) {
  const place = byId("state");
  place.className = `badge ${className}`;
  setText(place, text);
}

for (const chosen of [choice, rates]) chosen.addEventListener("change", () => latest && show());
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"])
  matchMedia(query).addEventListener("change", () => {
    for (const chart of charts) chart.shape = "";
    if (latest) show();
  });
new ResizeObserver(() => { if (latest && byId("diagram").clientWidth !== diagramWidth) drawDiagram(); }).observe(byId("diagram"));

feed.ask();
