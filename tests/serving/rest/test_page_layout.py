"""How the page is laid out, at widths of a desk and a phone, with data that are made up: names, heads and the plan."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import Browser, browsing

from proteus_cli.serving.rest.endpoints import AT, INDEX, TARGETS, read_site

pytestmark = pytest.mark.browser

DEVICES = """
const devices = (count, lost = []) => Object.fromEntries([...Array(count).keys()].map((at) => [`cpu-${at}`, {
  type: at % 2 ? "cpu-1c" : "cpu-2c", breaker: lost.includes(at) ? "open" : "closed", reason: "", retry_s: null,
  broken: {}, variants: ["digits-xxl"], warm: ["digits-s", "signals-xl", "digits-m"], cold: 3, load: 0.5, servers: 1,
  mean_batch: 2}]));
"""


class PageFiles(BaseHTTPRequestHandler):
    """The files of the page, without a server behind them."""

    site = read_site()

    def do_GET(self) -> None:
        if self.path not in TARGETS:
            self.send_error(404)
            return
        file = self.site[INDEX if self.path == "/" else self.path.removeprefix(AT)]
        self.send_response(200)
        self.send_header("content-type", file.content_type.decode())
        self.end_headers()
        self.wfile.write(file.body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the name is the base class's
        """Print nothing."""


@pytest.fixture(scope="module")
def files_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), PageFiles) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def bare_browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.mark.parametrize("width", [1280, 390])
def test_no_line_ends_at_the_hyphen_of_a_name(bare_browser: Browser, files_port: int, width: int) -> None:
    """Of what devices host, and of what changed."""
    bare_browser.open(files_port, width=width)
    lines = bare_browser.module(
        DEVICES
        + """
        const tables = await import("/ui/tables.js"), byId = (id) => document.getElementById(id);
        byId("main").hidden = false;
        tables.devices(byId("devices"), devices(3), {}, () => true, () => {});
        const change = "cpu-0: digits-xl → digits-xxl (was warm); cpu-1: signals-l → signals-xxl (loaded in 80 ms)";
        tables.events(byId("events"), [...Array(60).keys()].map((at) => ({unix_s: at, kind: "plan",
          text: "x".repeat(at % 30) + ` ${change}`, reason: `${"y".repeat(at % 30)} better for digits-xl`})));
        const texts = document.createTreeWalker(document.querySelector(".side-by-side"), NodeFilter.SHOW_TEXT);
        const found = [];
        while (texts.nextNode()) {
          const range = document.createRange(), {data} = texts.currentNode;
          for (const {0: name, index} of data.matchAll(/[a-z]+-\\w+/g)) {
            range.setStart(texts.currentNode, index);
            range.setEnd(texts.currentNode, index + name.length);
            found.push([name, new Set([...range.getClientRects()].map(({top}) => Math.round(top))).size]);
          }
        }
        return found;
        """
    )
    assert len(lines) > 60 * 7
    assert [name for name, count in lines if count != 1] == []


def test_heads_of_tables_take_two_lines_at_most_on_a_phone(bare_browser: Browser, files_port: int) -> None:
    """Heads stand at the bottom of their row, so a longer one leaves a gap above the others."""
    bare_browser.open(files_port, width=390)
    heights = bare_browser.module(
        """
        document.getElementById("main").hidden = false;
        const heads = [...document.querySelectorAll("#families thead tr, #attainment thead tr")];
        return heads.map((row) => row.getBoundingClientRect().height / parseFloat(getComputedStyle(row).lineHeight));
        """
    )
    assert all(lines < 3 for lines in heights), heights


def test_the_table_of_devices_is_seen_whole_on_a_desk(bare_browser: Browser, files_port: int) -> None:
    """Beside what changed, with names as long as those of the sample models."""
    bare_browser.open(files_port, width=1280)
    shown, whole = bare_browser.module(
        DEVICES
        + """
        const {devices: fill} = await import("/ui/tables.js"), table = document.getElementById("devices");
        document.getElementById("main").hidden = false;
        fill(table, devices(3), {}, () => true, () => {});
        return [table.parentElement.clientWidth, table.parentElement.scrollWidth];
        """
    )
    assert shown == whole


def test_many_devices_of_one_machine_are_shown_by_type_but_for_lost_ones(
    bare_browser: Browser, files_port: int
) -> None:
    bare_browser.open(files_port)
    found = bare_browser.module(
        DEVICES
        + """
        const {graph} = await import("/ui/plan_diagram.js");
        const shown = (of) => {
          const device = Object.keys(of), all = (value) => device.map(() => value);
          const flows = {device, family: all("f"), variant: all("v"), accuracy: all(0.9), planned_qps: all(2),
            answered_qps: all(1)};
          return graph({devices: of, hosts: {}, flows, families: {f: {}}}, "answered_qps").columns.at(-1)
            .map(({label, rate}) => `${label}: ${rate}`);
        };
        return [shown(devices(24)).length, shown(devices(40, [3, 6]))];
        """
    )
    assert found == [24, ["19 × cpu-2c: 19", "19 × cpu-1c: 19", "✕ cpu-3: 1", "✕ cpu-6: 1"]]


def test_the_accuracy_of_families_is_seen_on_a_phone(bare_browser: Browser, files_port: int) -> None:
    """Left of the shade at the right edge of the table."""
    bare_browser.open(files_port, width=390)
    accuracy_end, table_end = bare_browser.module(
        """
        const tables = await import("/ui/tables.js"), table = document.getElementById("families");
        document.getElementById("main").hidden = false;
        const now = {prefers: "accuracy", shifted: false, demand_qps: 1234, p99_s: 0.8884, slo_s: 1.2,
          violations: 0.005, accuracy: 0.9531, relative_accuracy: 1,
          estimated: false, throughput_qps: 1234, goodput_qps: 1234, waiting: 5,
          deferred: null, fallbacks: null, cut: null};
        tables.families(table, {digits: now, signals: now});
        return [table.tBodies[0].rows[0].cells[5], table.parentElement].map((at) => at.getBoundingClientRect().right);
        """
    )
    assert accuracy_end < table_end - 16


def test_six_warm_variants_take_three_lines_on_a_phone(bare_browser: Browser, files_port: int) -> None:
    bare_browser.open(files_port, width=390)
    lines = bare_browser.module(
        DEVICES
        + """
        const tables = await import("/ui/tables.js"), table = document.getElementById("devices"), of = devices(1);
        document.getElementById("main").hidden = false;
        of["cpu-0"].warm.push("signals-s", "digits-l", "signals-m");
        tables.devices(table, of, {}, () => true, () => {});
        const range = document.createRange(), cell = table.tBodies[0].rows[0].cells[3];
        range.selectNodeContents(cell);
        return range.getBoundingClientRect().height / parseFloat(getComputedStyle(cell).lineHeight);
        """
    )
    assert lines < 4


@pytest.mark.parametrize("width", [1280, 390])
def test_what_changed_ends_with_a_whole_item(bare_browser: Browser, files_port: int, width: int) -> None:
    bare_browser.open(files_port, width=width)
    ends = bare_browser.module(
        """
        const tables = await import("/ui/tables.js"), list = document.getElementById("events");
        document.getElementById("main").hidden = false;
        tables.events(list, [...Array(40).keys()].map((at) => ({unix_s: at, kind: "plan", text: "word ".repeat(at)})));
        return [list, ...list.children].map((at) => at.getBoundingClientRect().bottom);
        """
    )
    assert min(abs(ends[0] - end) for end in ends[1:]) < 1


def test_marks_that_are_close_together_are_one_with_a_count(bare_browser: Browser, files_port: int) -> None:
    """Those of plans and of devices are apart; a long row of marks does not become one."""
    bare_browser.open(files_port)
    found = bare_browser.module(
        """
        const {marks} = await import("/ui/series.js");
        const plans = [0, 4, 8, 12, 16, 40].map((at) => ({at, kind: "plan"}));
        return marks([...plans, {at: 41, kind: "device"}], 10).map(({at, kind, count}) => [at, kind, count]);
        """
    )
    assert found == [[0, "plan", 3], [12, "plan", 2], [40, "plan", 1], [41, "device", 1]]
