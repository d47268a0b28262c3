"""Who may ask a server without tokens: clients that name a host it is known by, and no page of another site."""

import logging
from collections.abc import Mapping

import pytest

from proteus_cli.errors import UnsupportedMediaType
from proteus_cli.serving.rest.access import Access, KnownHosts, require_json
from proteus_cli.serving.transport.tokens import Tokens
from proteus_cli.urls import authority_host

STATUS, UNLOAD, INFER = b"/v2/proteus/status", b"/v2/repository/models/a/unload", b"/v2/models/a/infer"
TOKEN = "f00d" * 8
HERE = KnownHosts(frozenset({"proteus.example"}), "10.0.0.7")
ABROAD = KnownHosts(frozenset(), takes_addresses=True)
NONE: Mapping[str, str] = {}
ANY = KnownHosts(frozenset({"*"}))


def status_of(
    hosts: KnownHosts,
    host: str | None,
    method: bytes = b"GET",
    target: bytes = STATUS,
    headers: Mapping[str, str] = NONE,
) -> int | None:
    """With what the request is refused; None: it is not."""
    sent = {name.encode(): value.encode() for name, value in headers.items()}
    if host is not None:
        sent[b"host"] = host.encode("latin-1")
    refusal = Access(None, hosts).refusal(method, target, sent)
    return None if refusal is None else refusal.status


# --- the host


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.0.0.1:8000", "127.200.3.4:65535",
        "[::1]", "[::1]:8000", "proteus.example", "Proteus.Example.:80", "10.0.0.7:8000", None,
    ],
)  # fmt: skip
def test_this_machine_and_hosts_that_were_named_are_answered(host: str | None) -> None:
    assert status_of(HERE, host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost",
        "sub.proteus.example", "localhost:80@evil.example", "localhost:evil", "user@localhost", "127.0.0.256",
        "2130706433", "0x7f000001", "::1", "[::1].evil.example", "[localhost]", "[::2]", "10.0.0.8", "evil.example/a",
        "", " ", "\xff", "*",
    ],
)  # fmt: skip
def test_other_hosts_are_not_answered_as_their_names_may_have_been_made_to_lead_here(host: str) -> None:
    for method, target in (
        (b"GET", STATUS),
        (b"POST", UNLOAD),
        (b"POST", INFER),
        (b"GET", b"/"),
        (b"GET", b"/metrics"),
    ):
        assert status_of(HERE, host, method, target) == 403


def test_an_address_cannot_be_made_to_lead_here_so_a_server_in_a_network_answers_to_all() -> None:
    for host in ("192.168.7.9:8000", "[fd00::1]:8000", "localhost"):
        assert status_of(ABROAD, host) is None
    for host in ("evil.example", "192.168.7.9.evil.example", ""):
        assert status_of(ABROAD, host) == 403


def test_a_star_takes_every_host_and_still_no_foreign_page() -> None:
    assert status_of(ANY, "evil.example") is None
    assert status_of(ANY, "evil.example", b"POST", UNLOAD, {"origin": "https://other.example"}) == 403


def test_health_is_told_to_any_host_as_probes_name_what_they_like() -> None:
    for target in (b"/v2/health/live", b"/v2/health/ready", b"/v2/health/ready?verbose"):
        assert status_of(HERE, "pod-7.proteus.svc", target=target) is None
    for target in (b"/v2/health/../proteus/status", b"/v2/health/live/../../proteus/status", b"//v2/health/live"):
        assert status_of(HERE, "pod-7.proteus.svc", target=target) == 403


def test_the_error_and_one_line_of_the_log_name_the_option(caplog: pytest.LogCaptureFixture) -> None:
    access = Access(None, HERE)
    for _ in range(3):
        refusal = access.refusal(b"GET", b"/metrics", {b"host": b"gpu1.lan:8000"})
        assert refusal is not None
        assert "for the host `gpu1.lan` only with `--set allowed-hosts=gpu1.lan`" in refusal.text
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "`--set allowed-hosts=gpu1.lan`" in record.message


def test_a_host_that_is_none_is_named_as_such_and_leaves_the_line_of_the_log_to_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = Access(None, HERE).refusal(b"GET", b"/metrics", {b"host": b"a b"})
    assert refusal is not None
    assert refusal.text == "`Host` is not the name or address of a host"
    assert not caplog.records


# --- other sites


@pytest.mark.parametrize(
    "headers",
    [
        {},  # curl, and clients of the protocol
        {"origin": "http://localhost:8000"},
        {"origin": "http://LocalHost:8000", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": "https://app.example", "sec-fetch-site": "same-origin"},  # through a proxy that renames the host
        {"origin": "https://proteus.example", "sec-fetch-site": "cross-site"},  # which is named
    ],
)
def test_what_no_other_site_sent_is_read(headers: dict[str, str]) -> None:
    for target in (UNLOAD, INFER):
        assert status_of(HERE, "localhost:8000", b"POST", target, headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
        {"origin": "http://localhost"},
        {"origin": "http://10.0.0.7:3000"},  # another server on this machine
        {"origin": "http://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "http://evil.example", "sec-fetch-site": "none"},
        {"origin": "null"},  # of a sandboxed frame, or a file
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "of a later standard"},
    ],
)
def test_what_a_page_of_another_site_sent_is_not_read_unless_it_is_a_plain_read(headers: dict[str, str]) -> None:
    for method in (b"POST", b"PUT", b"DELETE", b"OPTIONS"):
        for target in (UNLOAD, INFER, b"/v2/repository/index", b"/v2/health/live"):
            assert status_of(HERE, "localhost:8000", method, target, headers) == 403
    for method in (b"GET", b"HEAD"):
        assert status_of(HERE, "localhost:8000", method, STATUS, headers) is None


def test_a_server_with_tokens_needs_neither_check_as_no_browser_adds_a_token() -> None:
    access = Access(Tokens([TOKEN]), HERE)
    foreign = {b"host": b"evil.example", b"origin": b"http://evil.example", b"sec-fetch-site": b"cross-site"}
    refusal = access.refusal(b"POST", UNLOAD, foreign)
    assert refusal is not None
    assert refusal.status == 401
    assert access.refusal(b"POST", UNLOAD, {**foreign, b"authorization": b"Bearer " + TOKEN.encode()}) is None


# --- the type of content


def is_taken(content_type: bytes | None, body: bytes) -> bool:
    try:
        require_json({} if content_type is None else {b"content-type": content_type}, body)
    except UnsupportedMediaType:
        return False
    return True


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, b""), (None, b"{}"),  # curl -X POST, tritonclient
        (b"application/json", b"{}"), (b"Application/JSON; charset=utf-8", b""),
        (b"application/x-www-form-urlencoded", b"{}"),  # curl -d, and Triton's clients in C++
        (b"text/plain; charset=utf-8", b'{"parameters": {"unload_dependents": false}}'),  # tritonclient.http.aio
    ],
)  # fmt: skip
def test_json_is_taken_by_whatever_name_common_clients_give_it(content_type: bytes | None, body: bytes) -> None:
    assert is_taken(content_type, body)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"application/x-www-form-urlencoded", b""),
        (b"application/x-www-form-urlencoded", b"%7B%22a%22%3A%22=%22%7D"),
        (b"text/plain", b""),
        (b"text/plain", b'{"a":"="}\r\n'),  # <input name='{"a":"' value='"}'>
        (b"multipart/form-data; boundary=x", b"--x\r\n\r\n{}\r\n--x--\r\n"),
        (b"", b""),
    ],
)
def test_what_a_form_can_send_is_not_taken_for_json(content_type: bytes, body: bytes) -> None:
    assert not is_taken(content_type, body)


def test_hosts_are_compared_without_case_port_and_the_dot_of_the_root() -> None:
    assert authority_host("GPU1.Lan.:8000") == "gpu1.lan"
    assert authority_host("[FD00::1]:8000") == "fd00::1"
    assert [authority_host(text) for text in ("", "http://a", "a/b", "a b", "[a", "a:b", ":80", "::1")] == [""] * 8
