"""What a server logs of engines that are built."""

import logging

import pytest

from proteus_cli.serving.devices.process.child import EVERY_S, log_build


def test_the_progress_of_a_build_is_logged_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    caplog.set_level(logging.INFO, "proteus.process")
    with log_build("digits/digits-s", lambda: now_s) as follow:
        for tenth in range(31):
            now_s = EVERY_S * tenth / 10
            assert follow("tactics", tenth / 60)
    assert [record.message for record in caplog.records] == [
        "building digits/digits-s: 17%, tactics",
        "building digits/digits-s: 33%, tactics",
        "building digits/digits-s: 50%, tactics",
    ]
