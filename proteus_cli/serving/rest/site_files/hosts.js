// Devices under the hosts of a cluster, whose names their ids begin with. Independent of the page.

import * as format from "./format.js";

const OPEN_UP_TO = 16;  // devices in all, that are shown without being asked for
const EACH_UP_TO = 12;  // hosts where all is well, that have a row each
const MAX_HOSTED = 4;
const RANKS = ["open", "half-open", "closed"];

export const hostOf = (device) => device.slice(0, Math.max(0, device.indexOf("/")));

function byHost(names) {
  const found = new Map();
  for (const name of names) found.set(hostOf(name), [...(found.get(hostOf(name)) ?? []), name]);
  return found;
}

const isWell = ({breaker, broken}) => breaker === "closed" && !Object.keys(broken).length;

// The hosts with their devices, those that need attention first; this machine's, if any, have no `host`.
export function grouped(devices, hosts) {
  const found = new Map(Object.entries(hosts).map(([name, host]) => [name, {name, host, devices: []}]));
  for (const [id, now] of Object.entries(devices)) {
    const name = hostOf(id);
    if (!found.has(name)) found.set(name, {name, host: null, devices: []});
    found.get(name).devices.push([id, now]);
  }
  for (const group of found.values()) {
    group.devices.sort(([, one], [, other]) => RANKS.indexOf(one.breaker) - RANKS.indexOf(other.breaker));  // stable
    group.isLost = group.host?.state === "lost";
    group.isWell = !group.isLost && group.devices.every(([, now]) => isWell(now));
  }
  const rank = ({isLost, isWell: well}) => (isLost ? 0 : well ? 2 : 1);
  return [...found.values()].sort((one, other) => rank(one) - rank(other));
}

// The rows of a table: {level, key, group} of a host, {level, key, groups} of several where all is well, and
// {level, device: [id, now], group}. `isOpen(key, otherwise)` says what a person chose to see.
export function* rows(devices, hosts, isOpen) {
  const all = grouped(devices, hosts), well = all.filter((group) => group.isWell);
  const isSmall = Object.keys(devices).length <= OPEN_UP_TO, areFolded = well.length > EACH_UP_TO;
  for (const group of all) if (!areFolded || !group.isWell) yield* ofGroup(group, 0, isSmall, isOpen);
  if (!areFolded) return;
  yield {level: 0, key: "all hosts", groups: well, isOpen: isOpen("all hosts", false)};
  if (isOpen("all hosts", false)) for (const group of well) yield* ofGroup(group, 1, false, isOpen);
}

function* ofGroup(group, level, isSmall, isOpen) {
  const key = `host ${group.name}`, open = isOpen(key, isSmall);
  yield {level, key, group, isOpen: open};
  // On a host that is there, a device that is not well is seen all the same.
  for (const [id, now] of group.devices) if (open || !(group.isLost || isWell(now))) yield {level: level + 1, device: [id, now], group};
}

// Hosts of which all devices are meant, if several; else devices by their ids.
export function shortNames(names, devices) {
  const all = byHost(Object.keys(devices));
  return [...byHost(names)].flatMap(([host, chosen]) => (
    host && chosen.length > 1 && chosen.length === all.get(host)?.length ? [`host ${host}`] : chosen
  ));
}

// "2 hosts, 1 device": what is lost; empty: nothing.
export function lost(devices, hosts) {
  const gone = Object.entries(hosts).filter(([, {state}]) => state === "lost").map(([name]) => name);
  const alone = Object.entries(devices).filter(([id, {breaker}]) => breaker === "open" && !gone.includes(hostOf(id))).length;
  if (!Object.keys(hosts).length) return alone ? String(alone) : "";
  return [gone.length && format.counted(gone.length, "host"), alone && format.counted(alone, "device")].filter(Boolean).join(", ");
}

// "connected, 8 devices, 400 µs away"; "✕ lost for 12 s, with 8 devices (nothing came from it for 500 ms)";
// "connected, 7 of 8 devices work, shared by 2 servers, 400 µs away". Without a group: of several hosts where all is well.
export function hostState(group, count) {
  const all = format.counted(count, "device");
  if (!group) return `connected, ${all}`;
  const {host, devices, isLost} = group, working = devices.filter(([, {breaker}]) => breaker === "closed").length;
  const some = working === count ? all : `${working} of ${all} work`;
  if (!host) return some;
  if (isLost) return `✕ lost${host.state_s === null ? "" : ` for ${format.span(host.state_s)}`}, with ${all}${host.reason && ` (${host.reason})`}`;
  return `connected, ${some}${format.shared(host.servers)}${host.round_trip_s === null ? "" : `, ${format.duration(host.round_trip_s)} away`}`;
}

// "3 × text-l, 2 × image-m": what devices host, the most frequent first; of many variants only so many.
export function hosted(devices) {
  const counts = new Map();
  for (const {variants} of devices) for (const variant of variants) counts.set(variant, (counts.get(variant) ?? 0) + 1);
  const texts = [...counts].sort(([, one], [, other]) => other - one).map(([variant, count]) => (count > 1 ? `${format.count(count)} × ${variant}` : variant));
  return texts.slice(0, MAX_HOSTED).join(", ") + (texts.length > MAX_HOSTED ? " …" : "") || format.UNKNOWN;
}
