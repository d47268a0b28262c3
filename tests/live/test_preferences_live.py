"""A server whose catalog has a family that prefers latency says so, in its status and on its page."""

from pathlib import Path

import pytest
from browser import PHONE, browsing
from command_line import proteus
from live_server import serving
from tiny import add_profiles, make_workspace

pytestmark = [pytest.mark.live, pytest.mark.browser]

POLICY = '[family.policy]\nprefer = "latency"\n'


def test_status_and_page_say_what_a_family_prefers(tmp_path: Path) -> None:
    """The plan is that of `proteus plan`: of its three variants, the smallest answers."""
    made = make_workspace(tmp_path)
    catalog = made.place.catalog_path
    catalog.write_text(catalog.read_text().replace("[[family.variant]]", f"{POLICY}[[family.variant]]", 1))
    add_profiles(made)
    ended = proteus("plan", "--demand", "shapes=5qps,tones=5qps", "-w", tmp_path)
    assert ended.code == 0, ended.stderr
    with serving(tmp_path, tmp_path / "plans" / "plan.json", "--replan=off") as live, browsing() as browser:
        families = live.status()["families"]
        assert {name: of["prefers"] for name, of in families.items()} == {"shapes": "latency", "tones": "accuracy"}
        devices = live.status()["devices"].values()
        assert "shapes-s" in {variant for device in devices for variant in device["variants"]}
        browser.open(live.port, width=PHONE)
        browser.until(lambda: [*browser.table("#families")] == ["shapes · prefers latency", "tones"])
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.complaints() == []
        assert live.stop() == 0, live.log.read_text()
