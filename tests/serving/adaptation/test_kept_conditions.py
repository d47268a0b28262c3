"""Live conditions that the next server goes by: where they are from, and what becomes of those that no longer fit."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import make_catalog, make_family
from conditioned import Loop, catalog_of, conditions_of, patch_body
from short_forms import parse_condition

from proteus_cli import store
from proteus_cli.domain.catalog import Catalog
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.adaptation.conditions import FamilyConditions, KeptConditions, LiveConditions

AT_SECOND = parse_condition("exit >= 2")
CATALOG = catalog_of(has_exits=True)
"""One family `a` with the variant `a-s`: two exits, `confidence > 0.5`."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engines" / "conditions.json"


def with_variant(**changed: Any) -> Catalog:
    family = CATALOG.family("a")
    variants = (msgspec.structs.replace(family.variants[0], **changed),)
    return make_catalog(msgspec.structs.replace(family, variants=variants))


def restarted(path: Path, catalog: Catalog = CATALOG) -> tuple[LiveConditions, KeptConditions]:
    """The conditions of a server that starts now."""
    kept = KeptConditions.restore(path, catalog)
    conditions, controller = conditions_of(Loop(), kept=kept)
    controller.dispatch.stop_when |= {family: each.stop_when for family, each in kept.families.items()}
    return conditions, kept


def change(conditions: LiveConditions, stop_when: str | None) -> FamilyConditions:
    return asyncio.run(conditions.from_client("a", patch_body(stop_when)))


def test_the_next_server_goes_by_a_condition_and_tells_since_when(path: Path) -> None:
    said = change(restarted(path)[0], "exit >= 2")
    assert (said.origin, said.not_kept) == ("request", None)
    after = restarted(path)[0].of("a")
    assert after == msgspec.structs.replace(said, origin="kept")
    assert (after.stop_when, after.variants) == (AT_SECOND, {"a-s": AT_SECOND})
    assert after.since is not None


def test_what_counts_is_kept_also_where_its_client_is_gone_before_it_is_written(path: Path) -> None:
    """The one thread that could write it has other work until the client has gone."""

    async def scenario() -> None:
        conditions, kept = restarted(path)
        loop, goes_on = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loop.run_in_executor(None, goes_on.wait)
        asked = asyncio.ensure_future(conditions.from_client("a", patch_body("exit >= 2")))
        while not kept.families:
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        goes_on.set()
        assert (await conditions.from_client("a", patch_body("exit >= 2"))).not_kept is None
        await loop.shutdown_default_executor()

    asyncio.run(scenario())
    assert restarted(path)[0].of("a").stop_when == AT_SECOND


def test_what_is_taken_back_does_not_come_back(path: Path) -> None:
    change(restarted(path)[0], "exit >= 2")
    back = change(restarted(path)[0], None)
    assert (back.stop_when, back.since, back.origin) == (None, None, None)
    assert not path.exists()
    assert restarted(path)[1].families == {}


def test_a_later_change_is_of_this_server(path: Path) -> None:
    change(restarted(path)[0], "exit >= 2")
    conditions, _ = restarted(path)
    assert conditions.of("a").origin == "kept"
    assert change(conditions, "exit >= 1").origin == "request"
    assert restarted(path)[0].of("a").stop_when == parse_condition("exit >= 1")


@pytest.mark.parametrize(
    ("catalog", "why"),
    [
        (make_catalog(make_family("b", {"b-s": 0.8})), "the catalog has no family `a` any more"),
        (catalog_of(has_exits=False), "the catalog has none of the variants any more that it was for"),
        (
            with_variant(stop_when=parse_condition("confidence > 0.7")),
            "the catalog says of `a-s`: 2 exits, `confidence > 0.7`; it said 2, `confidence > 0.5`",
        ),
        (
            with_variant(exits=("1", "2", "3")),
            "the catalog says of `a-s`: 3 exits, `confidence > 0.5`; it said 2, `confidence > 0.5`",
        ),
        (with_variant(name="a-t"), "the catalog has none of the variants any more that it was for"),
    ],
)
def test_where_the_catalog_says_something_else_it_is_dropped(
    path: Path, catalog: Catalog, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    change(restarted(path)[0], "exit >= 2")
    with caplog.at_level(logging.WARNING):
        assert KeptConditions.restore(path, catalog).families == {}
    assert caplog.messages == [f"a: the live condition `exit >= 2` is dropped: {why}"]
    assert restarted(path)[1].families == {}, "also where the catalog is as it was again"


def test_the_same_catalog_in_other_words_and_more_variants_keep_it(path: Path) -> None:
    change(restarted(path)[0], "exit >= 2")
    family = with_variant(stop_when=parse_condition("confidence > 0.50")).family("a")
    more = msgspec.structs.replace(family.variants[0], name="a-t", stop_when=parse_condition("confidence > 9"))
    catalog = make_catalog(msgspec.structs.replace(family, variants=(*family.variants, more)))
    assert KeptConditions.restore(path, catalog).families.keys() == {"a"}


def test_versions_of_variants_have_the_names_of_the_catalog(path: Path) -> None:
    conditions, _ = restarted(path)
    conditions._served.content = msgspec.structs.replace(conditions._served.content, catalog=with_variant(name="a-s@2"))
    change(conditions, "exit >= 2")
    assert KeptConditions.restore(path, CATALOG).families.keys() == {"a"}


def test_where_a_server_follows_a_catalog_that_says_something_else_it_is_dropped(path: Path) -> None:
    conditions, _ = restarted(path)
    change(conditions, "exit >= 2")
    for stop_when, live in (("confidence > 0.5", AT_SECOND), ("confidence > 0.7", None)):
        catalog = with_variant(stop_when=parse_condition(stop_when))
        conditions._served.content = msgspec.structs.replace(conditions._served.content, catalog=catalog)
        asyncio.run(conditions.catalog_changed())
        assert conditions.of("a").stop_when == live
    assert conditions.of("a").variants == {"a-s": parse_condition("confidence > 0.7")}
    assert not path.exists()


def test_what_cannot_be_written_counts_and_the_answer_says_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    conditions, _ = restarted(path)
    path.parent.mkdir()
    path.write_text("{")
    said = change(conditions, "exit >= 2")
    assert (said.stop_when, said.origin) == (AT_SECOND, "request")
    assert said.not_kept is not None
    assert "conditions.json` is not a valid" in said.not_kept
    assert said.not_kept in caplog.messages[-1]
    assert path.read_text() == "{"
    path.unlink()
    assert change(conditions, "exit >= 2").not_kept is None, "to ask again has it kept"
    assert restarted(path)[0].of("a").stop_when == AT_SECOND


@pytest.mark.parametrize("content", ["{", '{"format": 2, "made_by": {}, "families": {}}'])
def test_a_file_that_cannot_be_read_is_told_and_nothing_of_it_counts(
    path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_text(content)
    assert KeptConditions.restore(path, CATALOG).families == {}
    assert "live conditions that were kept: " in caplog.text
    assert "remove it: the conditions of the catalog count then" in caplog.text


def test_what_is_dropped_does_not_count_where_the_file_cannot_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change(restarted(path)[0], "exit >= 2")

    def full(_path: Path) -> None:
        raise ArtefactError("Can't write: no space left.", hint="make room")

    monkeypatch.setattr(store, "remove", full)
    assert KeptConditions.restore(path, with_variant(stop_when=parse_condition("confidence > 0.7"))).families == {}
    assert "no space left" in caplog.messages[-1]


def test_without_a_file_a_condition_ends_with_the_server() -> None:
    conditions, _ = conditions_of(Loop())
    assert change(conditions, "exit >= 2").not_kept == "this server was started with `--set resume=false`"
