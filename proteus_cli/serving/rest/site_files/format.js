// Numbers and times as text. Unknown values are a dash.

export const UNKNOWN = "–";
const grouped = new Intl.NumberFormat("en", {maximumFractionDigits: 0});
const hours = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"});

const known = (write) => (value) => (value === null || value === undefined || Number.isNaN(value) ? UNKNOWN : write(value));

export const rate = known((qps) => (qps < 9.95 ? (Math.round(qps * 10) / 10).toString() : grouped.format(qps)));
export const count = known((value) => grouped.format(value));
export const counted = (value, noun, plural = `${noun}s`) => `${count(value)} ${value === 1 ? noun : plural}`;

// ", shared by 2 servers", after what is shared; empty for one server.
export const shared = (servers) => (servers > 1 ? `, shared by ${counted(servers, "server")}` : "");
export const percent = known((part) => `${(part * 100).toFixed(part > 0.9995 && part < 1 ? 2 : 1)} %`);
export const hundredths = known((part) => `${(part * 100).toFixed(2)} %`);
export const exactPercent = known((part) => `${Number((part * 100).toPrecision(10))} %`);
export const budget = known((used) => `${rate(used * 100)} %`);
export const decimal = known((value) => value.toFixed(1));
export const significant = known((value) => `${Number(value.toPrecision(4))}`);

export const duration = known((seconds) => {
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.0995 ? 1 : 0)} ms`;
  return `${seconds.toFixed(2)} s`;
});

export const wait = known((seconds) => (seconds < 1 ? "now" : `in ${Math.round(seconds)} s`));

export const clock = (unix_s) => hours.format(new Date(unix_s * 1000));

export function span(seconds) {
  const whole = Math.floor(seconds), parts = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  const [days, hours, minutes] = parts;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}
