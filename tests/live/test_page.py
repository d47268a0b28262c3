"""The page at `/` in a real browser: it shows what the server says, on any screen, by any means."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from itertools import pairwise, product
from pathlib import Path

import pytest
from browser import DESK, PHONE, Browser, browsing
from clusters import ACCURACY, make_cluster
from forking.program import start_proteus
from live_server import LiveServer, serving
from ports import held_port
from selenium.webdriver.common.keys import Keys
from tiny import Tiny, add_plan

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.extended]

CALM_QPS, PEAK_QPS, CALM_S = 20, 150, 2.0  # the most accurate variants carry 115
TOKEN = "f00d" * 8
FAMILIES = set(ACCURACY)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A cluster of eight emulated devices that adapts."""
    cluster = make_cluster(tmp_path_factory.mktemp("page") / "ws", f"{CALM_QPS}qps")
    with serving(cluster.root, Path("plan"), "--emulate") as live:
        yield live
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


@contextmanager
def replaying(live: LiveServer, all_s: float) -> Iterator[None]:
    """Play a rise of demand against the server, with our own client, meanwhile."""
    root = live.log.parent
    arrivals, now_s = list[str](), 0.0
    while now_s < all_s:
        arrivals.append(f"{now_s:.4f},{sorted(FAMILIES)[len(arrivals) % 2]}\n")
        now_s += 1 / (CALM_QPS if now_s < CALM_S else PEAK_QPS)
    (root / "rise.csv").write_text("arrival_s,family\n" + "".join(arrivals))
    url = f"http://127.0.0.1:{live.port}"
    call = ("replay", root / "rise.csv", "--url", url, "-w", root)
    client = start_proteus(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        assert client.wait(60) == 0
    finally:
        client.kill()
        client.wait()


def number(cell: str) -> float:
    return 0.0 if cell == "–" else float(cell.split(maxsplit=1)[0].replace(",", ""))


def inked(browser: Browser, chart: str) -> int:
    """How many pixels of a chart are not empty."""
    found: int = browser.run(
        "const canvas = document.querySelector(arguments[0] + ' canvas'), {width, height} = canvas;"
        "const copy = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});"
        "copy.drawImage(canvas, 0, 0); const {data} = copy.getImageData(0, 0, width, height);"
        "let inked = 0; for (let at = 3; at < data.length; at += 4) inked += data[at] > 0; return inked;",
        chart,
    )
    return found


def plan_events(browser: Browser) -> list[str]:
    found: list[str] = browser.run("return [...document.querySelectorAll('#events .plan')].map((at) => at.innerText)")
    return found


def told_of_demand(browser: Browser) -> str:
    """What the chart says to those who don't see it."""
    return browser.find("#chart-demand .plot").get_attribute("aria-label") or ""


def test_it_shows_what_happens_while_a_trace_plays(browser: Browser, server: LiveServer) -> None:
    browser.open(server.port)
    browser.until(lambda: browser.shows("#main"))
    assert set(browser.table("#families")) == FAMILIES
    assert browser.text("#state") == "ready"
    assert browser.text("#emulated") == "emulated"
    assert browser.driver.title.startswith("EMULATED")
    browser.until(lambda: "demand: 0 now" in told_of_demand(browser))
    before = inked(browser, "#chart-demand")
    with replaying(server, 8.0):
        browser.until(lambda: all(number(cells[0]) > 50 for cells in browser.table("#families").values()))
        browser.until(lambda: all(number(cells[6]) > 20 for cells in browser.table("#families").values()))
        browser.until(lambda: any(number(cells[4]) > 0 for cells in browser.table("#devices").values()))
        change = browser.until(lambda: [text for text in plan_events(browser) if " → " in text])[0]
        assert "(loaded in " in change or "(was warm)" in change
        assert "more than was planned for" in change or "the demand of the last" in change
        browser.until(lambda: len(browser.all("#chart-variants .legend li")) > len(FAMILIES))
        assert browser.all(".diagram .band")
        assert "The plan changed" in (browser.find("#news").get_attribute("textContent") or "")
    rows = browser.table("#families")
    for family, (_, p99, slo, _, accuracy, *_) in rows.items():
        assert number(accuracy) / 100 <= max(ACCURACY[family].values())
        assert p99.endswith(("ms", "s"))
        assert slo == "1.20 s"
    for chart in ("#chart-demand", "#chart-accuracy", "#chart-p99"):
        assert inked(browser, chart) > 0
    assert inked(browser, "#chart-demand") > before
    assert "between 0 and" in told_of_demand(browser)
    assert browser.complaints() == []


def test_it_shows_what_each_family_attained_and_how_much_of_its_error_budget_was_used(
    browser: Browser, server: LiveServer
) -> None:
    browser.open(server.port)
    browser.until(lambda: browser.shows("#main"))
    with replaying(server, 3.0):
        pass
    browser.until(lambda: browser.table("#attainment") == attained(server))
    families = server.status()["families"].values()
    used = [family["recent_attainment"]["error_budget_used"] for family in families]
    assert browser.run(
        "return [...document.querySelectorAll('#attainment tbody tr')]"
        ".map((row) => +row.cells[4].querySelector('rect:last-child').getAttribute('width'))"
    ) == pytest.approx([40 * min(1, part) for part in used])
    missed = sum(not family[of]["met"] for family in families for of in ("attainment", "recent_attainment"))
    assert len(browser.all("#attainment td.bad")) == 2 * missed


def attained(server: LiveServer) -> dict[str, list[str]]:
    """What the table of attainment shows of each family: from the status."""

    def shown(of: dict[str, float]) -> list[str]:
        used = 100 * of["error_budget_used"]
        return [f"{100 * of['reached']:.2f} %", f"{round(used, 1):g} %" if used < 9.95 else f"{used:,.0f} %"]

    def expected(family: dict[str, float]) -> str:
        """Of the plan in force, which was made for a forecast by now."""
        return f"{100 * family['expected_attainment']:.2f} %"

    return {
        name: ["99.5 %", expected(family), *shown(family["recent_attainment"]), *shown(family["attainment"])]
        for name, family in server.status()["families"].items()
    }


def test_its_picture_and_its_tables_are_the_plan(browser: Browser, server: LiveServer) -> None:
    browser.open(server.port)
    browser.until(lambda: browser.all(".diagram svg"))
    browser.find("#plan-title ~ details summary").click()
    browser.until(lambda: flows(browser) == placements(server))  # both may change meanwhile
    planned = placements(server)
    browser.until(lambda: {name for placement in planned for name in placement} <= names_in_picture(browser))
    assert set(browser.table("#devices")) == set(server.status()["pace"])


def placements(server: LiveServer) -> set[tuple[str, str, str]]:
    return {(p["family"], p["variant"], p["device"]) for p in server.status()["placements"]}


def flows(browser: Browser) -> set[tuple[str, ...]]:
    rows = browser.run(
        "return [...document.querySelectorAll('#flows tbody tr')].map((row) => "
        "[...row.cells].slice(0, 3).map((cell) => cell.textContent))"
    )
    return {tuple(row) for row in rows}


def names_in_picture(browser: Browser) -> set[str]:
    return set(
        browser.run("return [...document.querySelectorAll('.diagram text')].map((text) => text.firstChild.data)")
    )


def test_one_family_can_be_chosen(browser: Browser, server: LiveServer) -> None:
    browser.open(server.port)
    browser.until(lambda: len(browser.all("#family option")) == 1 + len(FAMILIES))
    assert [item.text for item in browser.all("#chart-accuracy .legend li")] == list(server.status()["slo_s"])
    browser.find("#family option[value=image]").click()
    assert [item.text for item in browser.all("#chart-accuracy .legend li")] == ["image"]
    assert [item.text for item in browser.all("#chart-p99 .legend li")] == ["image", "SLO"]
    assert browser.text("#chart-p99 h3 small") == "ms"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_fits_the_screen_and_can_be_read(browser: Browser, server: LiveServer, width: int, dark: bool) -> None:  # noqa: FBT001
    browser.open(server.port, width=width, dark=dark)
    browser.until(lambda: browser.all("#devices tbody tr"))
    assert browser.run("return document.documentElement.scrollWidth") <= width
    is_dark = browser.run("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert is_dark is dark
    faint = browser.run(CONTRASTS)
    assert faint == []


def test_a_phone_shows_p99_and_slo_without_scrolling(browser: Browser, server: LiveServer) -> None:
    browser.open(server.port, width=390)
    browser.until(lambda: browser.all("#families tbody tr"))
    ends = browser.run(
        "return Object.fromEntries([...document.querySelectorAll('#families thead th')]"
        ".map((head) => [head.textContent, head.getBoundingClientRect().right]))"
    )
    assert ends["p99"] < ends["SLO"] <= 390


def test_the_plan_can_be_shown_as_planned(browser: Browser, server: LiveServer) -> None:
    """Without traffic nothing is answered, so bands are thin; what is planned is as wide as ever."""
    browser.open(server.port)
    browser.until(lambda: browser.all(".diagram svg") and not browser.all(".diagram .band"))
    assert re.search(r"text: 0 of [1-9][0-9.]* qps", titles(browser))
    browser.find("#rates option[value=planned_qps]").click()
    browser.until(lambda: browser.all(".diagram .band"))


def test_without_answers_the_picture_has_outlines_and_no_line_through_a_name(
    browser: Browser, server: LiveServer
) -> None:
    browser.open(server.port)
    browser.until(lambda: browser.all(".diagram svg") and not browser.all(".diagram .band"))
    assert browser.run(
        """
        const nodes = [...document.querySelectorAll(".diagram g")].map((node) => {
          const text = node.querySelector("text").getBBox(), behind = node.querySelector(".behind").getBBox();
          const isCovered = behind.x <= text.x && behind.x + behind.width >= text.x + text.width;
          return [node.getAttribute("class"), isCovered && behind.height >= text.height];
        });
        return [...new Set(nodes.map(String))];
        """
    ) == ["empty,true"]
    said = browser.run("return [...document.querySelectorAll('.diagram text')].map((text) => text.textContent)")
    assert len([text for text in said if text.endswith("0 answered")]) == len(
        {placement[:2] for placement in placements(server)}
    )


def test_variants_of_one_name_are_told_apart_by_their_families(browser: Browser, server: LiveServer) -> None:
    browser.open(server.port)
    assert browser.module(
        """
        const {KINDS} = await import("/ui/charts.js"), {lines} = KINDS.find(({id}) => id === "variants");
        const families = {faces: {variants: {large: 0.9, own: 0.8}}, plates: {variants: {large: 0.9}}};
        const variants = {faces: {large: [1], own: [1]}, plates: {large: [1]}};
        return ["", "faces"].map((family) => lines({variants}, family, {families}).map(({label}) => label));
        """
    ) == [["plates/large", "own", "faces/large"], ["own", "faces/large"]]


def titles(browser: Browser) -> str:
    found: str = browser.run(
        "return [...document.querySelectorAll('.diagram title')].map((t) => t.textContent).join('; ')"
    )
    return found


def test_charts_fill_from_the_left(browser: Browser, server: LiveServer) -> None:
    """From the start to two minutes after it, later to now, and at last the 15 minutes before now."""
    browser.open(server.port)
    assert browser.module(
        """
        const {Chart, KINDS} = await import("/ui/charts.js"), {Series} = await import("/ui/series.js");
        const chart = new Chart(KINDS[0], () => {}), ranges = [];
        document.body.append(chart.figure);
        for (const uptime_s of [10, 500, 5000]) {
          chart.show(new Series(), "", {unix_s: 10000, uptime_s, keeps_s: 900, families: {}});
          await Promise.resolve();
          const {min, max} = chart.plot.scales.x;
          ranges.push([min, max]);
        }
        return ranges;
        """
    ) == [[9990, 10110], [9500, 10000], [9100, 10000]]


# Texts that have less contrast with what is behind them than WCAG 2.2 asks for (1.4.3).
CONTRASTS = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((value) => value / 255)
  .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a = 1] = channels(getComputedStyle(at).backgroundColor);
    if (a === 1) return [r, g, b];
  }
  return [255, 255, 255];
};
const faint = [];
for (const element of document.querySelectorAll("body *:not(script):not(svg *)")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility() || element.className === "visually-hidden") continue;
  const [one, other] = [light(channels(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (other + 0.05);
  if (ratio < 4.5) faint.push(`${element.tagName} ${element.textContent.trim().slice(0, 40)} ${ratio.toFixed(2)}`);
}
return faint;
"""


def test_everything_can_be_reached_and_used_by_keys(browser: Browser, server: LiveServer) -> None:
    """Once each chart has values."""
    with replaying(server, 1.0):
        browser.open(server.port)
    browser.until(lambda: browser.all("#chart-variants .legend li"))
    reached = list[str]()
    while (at := browser.tab()) and at not in reached[:1]:
        reached.append(at)
        if at.startswith("chart-") and at.endswith(" plot"):
            browser.press(Keys.ARROW_LEFT)
            readout = f"#{at.split()[0]} .readout"
            said = browser.text(readout)
            assert re.match(r"\d\d:\d\d:\d\d · ", said)  # a time, then values
            browser.press(Keys.ESCAPE)
            assert browser.text(readout) == ""
    charts = ["demand", "variants", "violations", "accuracy", "p99"]
    expected = ["Skip to the numbers", "Families as a table", "family"]
    for chart in charts:
        expected += [f"chart-{chart} plot"]
    assert [stop for stop in reached if stop in expected] == expected
    assert {"The plan as a table", "Devices as a table", "events", "API", "metrics"} <= set(reached)
    assert (
        sum(stop.endswith("as a table") for stop in reached) == len(charts) + 1 + 3
    )  # what opens them, and three more


def test_a_chart_can_be_read_as_a_table(browser: Browser, server: LiveServer) -> None:
    browser.open(server.port)
    browser.until(lambda: browser.all("#devices tbody tr"))
    browser.run("document.querySelector('#chart-demand summary').focus()")
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.all("#chart-demand tbody tr"))
    heads = [head.text for head in browser.all("#chart-demand thead th")]
    assert heads == ["from", "demand", "throughput", "on time"]


def test_its_structure_makes_sense_without_eyes(browser: Browser, server: LiveServer) -> None:
    browser.open(server.port)
    browser.until(lambda: browser.all("#devices tbody tr"))
    assert browser.run("return document.documentElement.lang") == "en"
    levels = browser.run("return [...document.querySelectorAll('h1,h2,h3')].map((head) => +head.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(len(browser.all(landmark)) == 1 for landmark in ("header", "main", "footer"))
    ids = browser.run("return [...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    assert browser.run("return [...document.querySelectorAll('thead th')].filter((head) => head.scope !== 'col')") == []
    assert (
        browser.run("return [...document.querySelectorAll('tbody tr')].filter((row) => !row.querySelector('th'))") == []
    )
    nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"image", "combobox", "table", "region", "figure", "link", "textbox", "button"}
    for node in nodes:
        if not node["ignored"] and node["role"]["value"] in roles - {"table"}:
            assert node["name"]["value"], (node["role"]["value"], node.get("properties"))
    assert sum(node["role"]["value"] == "image" for node in nodes if not node["ignored"]) >= 5  # charts, picture
    lives = browser.run("return [...document.querySelectorAll('[aria-live], [role=status], [role=alert]')].length")
    assert lives == 1 + 5  # news, and readouts, which speak when keys are pressed


def test_columns_become_series(browser: Browser, server: LiveServer) -> None:
    """The page's own arithmetic, in the browser that it is for."""
    browser.open(server.port)
    assert browser.module(
        """
        const {Series, stacked, means, scaled, sum} = await import("/ui/series.js");
        const feed = (server, unix_s, uptime_s, at_s, values, events = []) => ({
          server, unix_s, uptime_s, every_s: 1, keeps_s: 3, events,
          samples: {
            at_s, families: {f: {demand_qps: values}, g: {demand_qps: values}}, variants: {f: {v: values}, g: {}},
            devices: {},
          },
        });
        const series = new Series(), said = [];
        const say = () => said.push(structuredClone(
          [series.unix_s, series.column("demand_qps", "f"), series.column("demand_qps", ""), series.variants]));
        series.append(feed("a", 1010, 10, [8, 9], [1, null], [{at_s: 8, kind: "plan", text: "why"}]));
        say();
        series.append(feed("a", 1012, 12, [10, 11], [3, 4]));
        say();
        const kept = series.events.length;
        series.append(feed("b", 1020, 1, [0.5], [7]));  // another server: all anew
        say();
        return [said, kept, series.events.length, stacked([[1, 2], [3, null]]), scaled([1, null], 2), sum([], 2),
          means([0, 1, 2, 3, 4], [[1, 1, 3, null, 5]], 2)];
        """
    ) == [
        [
            [[1008, 1009], [1, None], [2, 0], {"f": {"v": [1, None]}, "g": {}}],
            [[1009, 1010, 1011], [None, 3, 4], [0, 6, 8], {"f": {"v": [None, 3, 4]}, "g": {}}],
            [[1019.5], [7], [14], {"f": {"v": [7]}, "g": {}}],
        ],
        0, 0, [[4, 2], [3, 0]], [2, None], [0, 0],
        [{"unix_s": 0, "values": [1]}, {"unix_s": 1, "values": [2]}, {"unix_s": 3, "values": [5]}],
    ]  # fmt: skip


# A cluster of so many hosts with eight devices each, and one device of this machine; `h1` is lost, `h2/gpu3` tried out.
CLUSTER = """
const cluster = (count) => {
  const device = (breaker) => ({type: "t", breaker, reason: "", retry_s: null, broken: {}, warm: [], cold: 3, load: 0.5,
    servers: 1, mean_batch: 2, variants: breaker === "open" ? [] : ["v"]});
  const devices = {cpu0: device("closed")}, hosts = {};
  for (let at = 0; at < count; at++) {
    const isLost = at === 1;
    hosts[`h${at}`] = {state: isLost ? "lost" : "connected", state_s: 12, reason: isLost ? "it ended" : "",
      servers: at === 0 ? 2 : 1, round_trip_s: isLost ? null : 0.0004};
    for (let gpu = 0; gpu < 8; gpu++)
      devices[`h${at}/gpu${gpu}`] = device(isLost ? "open" : at === 2 && gpu === 3 ? "half-open" : "closed");
  }
  const ids = Object.keys(devices).filter((id) => !id.startsWith("h1/"));
  const flows = {device: ids, family: ids.map(() => "f"), variant: ids.map(() => "v"), accuracy: ids.map(() => 0.9),
    planned_qps: ids.map(() => 2), answered_qps: ids.map(() => 1)};
  return {devices, hosts, flows, families: {f: {}}};
};
"""


def test_devices_are_shown_under_their_hosts_and_many_hosts_in_one_row(browser: Browser, server: LiveServer) -> None:
    """On a lost host no device, and on one that is there each that is not well; a person may open the others."""
    browser.open(server.port)
    found = browser.module(
        CLUSTER
        + """
        const {devices: fill, element} = await import("/ui/tables.js"), chosen = new Map();
        const table = element("table", {}, element("tbody"));
        const shown = ({devices, hosts}) => {
          const again = () => fill(table, devices, hosts, (key, otherwise) => chosen.get(key) ?? otherwise,
            (key, isOpen) => { chosen.set(key, isOpen); again(); });
          again();
          return [...table.tBodies[0].rows].map((row) => [row.cells[0].textContent, row.cells[1].textContent]);
        };
        const three = shown(cluster(3));
        [...table.querySelectorAll("button")].find((button) => button.textContent === "host h0").click();
        const opened = shown(cluster(3)), many = shown(cluster(100));
        const local = shown({devices: {cpu0: cluster(1).devices.cpu0}, hosts: {}});
        return [three, opened.map(([name]) => name), many, local];
        """
    )
    lost = ["host h1", "✕ lost for 12 s, with 8 devices (it ended)"]
    tried = [["host h2", "connected, 7 of 8 devices work, 400 µs away"], ["h2/gpu3", "◐ being tried out"]]
    well = ["host h0", "connected, 8 devices, shared by 2 servers, 400 µs away"]
    assert found == [
        [lost, *tried, well, ["this machine", "1 device"]],
        ["host h1", "host h2", "h2/gpu3", "host h0", *(f"h0/gpu{gpu}" for gpu in range(8)), "this machine"],
        [lost, *tried, ["99 hosts", "connected, 785 devices"]],
        [["cpu0", "working"]],
    ]


def test_hosts_are_the_last_column_of_the_picture_where_there_are_several(browser: Browser, server: LiveServer) -> None:
    """Many devices are a node by type, and many hosts one; on a phone hosts take the place of devices."""
    browser.open(server.port)
    found = browser.module(
        CLUSTER
        + """
        const {graph} = await import("/ui/plan_diagram.js");
        const said = (count, isNarrow) => graph(cluster(count), "answered_qps", isNarrow).columns.map(
          (column) => column.map(({label, rate}) => `${label}: ${rate}`));
        const {devices: {cpu0}, flows, families} = cluster(1);
        for (const values of Object.values(flows)) values.length = 1;
        const local = graph({devices: {cpu0}, hosts: {}, flows, families}, "answered_qps").columns;
        return [said(2, false), said(3, false), said(100, false), said(3, true),
          local.map((column) => column.map(({label}) => label))];
        """
    )
    each = [f"h0/gpu{gpu}: 1" for gpu in range(8)]
    lost = [f"✕ h1/gpu{gpu}: 0" for gpu in range(8)]
    hosts = ["this machine: 1", "h0: 8", "h2: 8", "✕ h1: 0"]
    assert found == [
        [["f: 9"], ["v: 9"], ["cpu0: 1", *each, *lost], ["this machine: 1", "h0: 8", "✕ h1: 0"]],
        [["f: 17"], ["v: 17"], ["25 × t: 17"], hosts],
        [["f: 793"], ["v: 793"], ["801 × t: 793"], ["100 hosts: 793", "✕ h1: 0"]],
        [["f: 17"], ["v: 17"], hosts],
        [["f"], ["v"], ["cpu0"]],
    ]


def test_a_page_of_hosts_fits_the_screen_and_opens_them_by_keys(browser: Browser, tmp_path: Path) -> None:
    """Five emulated hosts with 20 devices, which are closed at first."""
    fleet = ";".join(f"host{number}=a:2,b:2" for number in range(5))
    cluster = make_cluster(tmp_path / "ws", f"{CALM_QPS}qps", fleet)
    with serving(cluster.root, Path("plan"), "--emulate") as live:
        for width, dark in product((PHONE, DESK), (False, True)):
            browser.open(live.port, width=width, dark=dark)
            browser.until(lambda: len(browser.all("#devices tbody tr")) == 5)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run(CONTRASTS) == []
        assert browser.text("#facts > div:last-child") == "hosts\n5"
        names = names_in_picture(browser)
        assert {f"host{number}" for number in range(5)} <= names
        browser.run("document.querySelector('#devices .toggle').focus()")
        browser.press(Keys.ENTER)
        browser.until(lambda: len(browser.all("#devices tbody tr")) == 5 + 4)
        assert browser.run("return document.activeElement.getAttribute('aria-expanded')") == "true"
        browser.press(Keys.SPACE)
        browser.until(lambda: len(browser.all("#devices tbody tr")) == 5)
        assert browser.complaints() == []
        assert live.stop() == 0


def test_what_is_lost_is_said_by_host(browser: Browser, server: LiveServer) -> None:
    browser.open(server.port)
    assert browser.module(
        CLUSTER
        + """
        const {lost, shortNames} = await import("/ui/hosts.js"), {devices, hosts} = cluster(3);
        const gone = Object.keys(devices).filter((id) => devices[id].breaker === "open");
        const more = {...devices, "h0/gpu0": {...devices["h0/gpu0"], breaker: "open"}};
        return [lost(devices, hosts), lost(more, hosts), lost({cpu0: {breaker: "open"}}, {}),
          lost({cpu0: {breaker: "closed"}}, {}),
          shortNames([...gone, "cpu0"], devices), shortNames(["h0/gpu0", "h0/gpu1"], devices)];
        """
    ) == ["1 host", "1 host, 1 device", "1", "", ["host h1", "cpu0"], ["h0/gpu0", "h0/gpu1"]]


@pytest.fixture
def own_port() -> Iterator[int]:
    with held_port() as port:
        yield port


def test_a_server_that_drains_and_goes_is_told_and_one_that_comes_back_is_shown(
    browser: Browser, server: LiveServer, tmp_path: Path, own_port: int
) -> None:
    root = Path(shutil.copytree(server.log.parent, tmp_path / "ws"))
    plain = ("--emulate", "--replan", "off", "--set=drain-timeout=60s", "--port", str(own_port))
    with serving(root, Path("plan"), *plain) as live:
        browser.open(live.port)
        browser.until(lambda: browser.text("#state") == "ready")
        with waiting_requests(live, 1000):
            live.process.send_signal(signal.SIGTERM)
            browser.until(lambda: "draining" in browser.text("#banner"))
            assert browser.text("#state") == "draining"
        browser.until(lambda: "doesn't answer" in browser.text("#banner"))
        assert browser.find("#news").get_attribute("textContent") == "The server doesn't answer."
        assert browser.text("#state") == "not reachable"
        live.process.wait(20)
    with serving(root, Path("plan"), *plain) as live:
        browser.until(lambda: browser.text("#state") == "ready")
        assert browser.text("#banner") == ""
        assert browser.find("#news").get_attribute("textContent") == "The server answers again."
        assert live.stop() == 0


@contextmanager
def waiting_requests(live: LiveServer, count: int) -> Iterator[None]:
    """Requests that keep the server busy for ten seconds, or until their clients go: on leaving."""
    x = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}
    body = json.dumps({"inputs": [x], "parameters": {"timeout": 60_000_000}})
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(closing(HTTPConnection("127.0.0.1", live.port)))
            connection.request("POST", "/v2/models/image/infer", body.encode())
        yield


def test_a_token_is_asked_for_kept_in_this_tab_and_sent(browser: Browser, tiny: Tiny, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    with serving(tiny.root, plan, "--replan", "off", "--auth-tokens", str(tokens)) as live:
        browser.open(live.port)
        browser.until(lambda: browser.shows("#token-form"))
        assert not browser.shows("#main")
        assert browser.run("return document.activeElement.id") == "token"
        browser.press("0" * 32, Keys.ENTER)
        browser.until(lambda: "doesn't know this token" in browser.text("#banner"))
        browser.press(TOKEN, Keys.ENTER)
        browser.until(lambda: browser.shows("#main"))
        assert set(browser.table("#families")) == {"shapes", "tones"}
        assert browser.run("return localStorage.length") == 0
        browser.driver.refresh()
        browser.until(lambda: browser.shows("#main"))
        assert TOKEN not in browser.driver.current_url + browser.driver.page_source
        assert live.stop() == 0
        assert TOKEN not in live.log.read_text()


# --- lost devices


def test_a_lost_device_stands_out_in_words_and_on_the_time_axis(browser: Browser, tiny: Tiny) -> None:
    """Its process is killed; it can't come back before the models are there again."""
    plan = add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-s"})
    models, elsewhere = tiny.root / "engines" / "models", tiny.root / "engines" / "elsewhere"
    with serving(tiny.root, plan, "--set=executor=process", "--replan", "off") as live:
        browser.open(live.port)
        browser.until(lambda: browser.all("#devices tbody tr"))
        assert browser.table("#devices")["cpu1"][0] == "working"
        assert not browser.shows("#emulated")
        models.rename(elsewhere)
        process = live.status()["devices"]["cpu1"]["pid"]
        os.kill(process, signal.SIGKILL)
        browser.until(lambda: browser.table("#devices")["cpu1"][0].startswith("✕ lost, trying again "))
        assert browser.text("#lost") == "1 lost"
        assert browser.find("#devices tbody tr.lost").text.startswith("cpu1")
        assert "✕ cpu1" in browser.run("return document.querySelector('.diagram .lost text').textContent")
        browser.until(lambda: f"its process {process} has ended" in browser.text("#events"))
        assert browser.find("#news").get_attribute("textContent") == "Lost: cpu1."
        assert browser.run(CONTRASTS) == []
        elsewhere.rename(models)
        browser.until(lambda: browser.table("#devices")["cpu1"][0].startswith("working, without "))
        assert "shapes-s" in browser.table("#devices")["cpu1"][0]  # it was tried out, too, when no model was there
        assert not browser.shows("#lost")
        assert browser.complaints() == []
        assert live.stop() == 0
