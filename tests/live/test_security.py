"""Who may ask a running server, and by what: bearer tokens and TLS."""

import json
import signal
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from command_line import proteus
from injecting import until_said
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from tiny import Tiny, add_plan

from proteus_cli.errors import ArtefactError
from proteus_cli.serving.rest.endpoints import ROUTES
from proteus_cli.serving.transport.tokens import Tokens, read_tokens

TOKEN, OTHER = "f00d" * 8, "cafe" * 8
GOOD = {
    "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}],
    "parameters": {"timeout": 20_000_000},  # µs: the machine may be busy
}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# of the team\n\n{OTHER}\n  {TOKEN}  \n")
    path.chmod(0o600)
    return path


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Certificate, key, and the authority that it is signed by."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1", "localhost")
    paths = tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem"
    made.cert_chain_pems[0].write_to_path(paths[0])
    made.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    return paths


# --- tokens


@pytest.mark.parametrize(
    ("header", "is_authorized"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {OTHER} ", True),
        (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN} {OTHER}", False),
        ("Bearer # of the team", False),
        ("Bearer ", False),
        ("Bearer", False),
        (TOKEN, False),
        ("", False),
        (None, False),
    ],
)
def test_a_token_of_the_file_is_enough_and_nothing_else(tokens: Path, header: str | None, is_authorized: bool) -> None:  # noqa: FBT001
    assert read_tokens(tokens).accepts(header.encode() if header is not None else None) is is_authorized


def test_a_header_of_any_bytes_is_refused() -> None:
    assert not Tokens([TOKEN]).accepts(b"Bearer \xff\x00\xfe")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no token, so nobody could ask"),
        (b"# only a comment\n", "has no token, so nobody could ask"),
        (b"\n" + TOKEN[:15].encode() + b"\n", "line 2: a token of fewer than 16 characters can be guessed"),
        (TOKEN.encode() + b" " + OTHER.encode(), "line 1: a token has no spaces in it"),
        ("ü".encode() * 20, "something else than ASCII"),
    ],
)
def test_a_file_of_tokens_that_makes_no_sense_is_refused_without_quoting_it(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ArtefactError) as refused:
        read_tokens(path)
    assert problem in refused.value.message
    assert TOKEN[:15] not in refused.value.message + refused.value.hint
    assert "openssl" in refused.value.hint


def test_a_file_of_tokens_that_others_can_read_is_warned_of(tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_tokens(tokens)
    assert caplog.text == ""
    tokens.chmod(0o640)
    read_tokens(tokens)
    assert "can be read by others" in caplog.text


@pytest.mark.live
def test_a_server_with_tokens_answers_only_who_has_one_and_warns_of_nothing_where_others_can_reach_it(
    tiny: Tiny, tokens: Path
) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    options = ("--host", "0.0.0.0", "--auth-tokens", str(tokens))  # noqa: S104 - that is meant
    with serving(tiny.root, plan, "--replan=off", *options) as live:
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert live.infer("shapes", GOOD, known).status == 200
        assert live.ask("GET", "/metrics", headers=known).status == 200
        for headers in ({}, {"Authorization": "Bearer " + "0" * 32}):
            for path in ("/v2", "/metrics", "/v2/proteus/status", "/v2/models/shapes", "/v2/health/live/", "/nothing"):
                reply = live.ask("GET", path, headers=headers)
                assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert live.infer("shapes", GOOD, headers).status == 401
        assert live.get("/v2/health/live").status == 200
        assert live.get("/v2/health/ready").status == 200
        assert live.stop() == 0
        log = live.log.read_text()
        assert TOKEN not in log
        assert "every client that reaches this address" not in log


def rotated(live: LiveServer, *lines: str) -> None:
    """SIGHUP, and wait until the log has these lines once more than before."""
    before = {line: live.log.read_text().count(line) for line in lines}
    live.process.send_signal(signal.SIGHUP)
    for line in lines:
        until_said(live, line, before[line] + 1)


@pytest.mark.live
def test_sighup_reads_the_tokens_again_and_open_connections_need_one_of_the_new_ones(tiny: Tiny, tokens: Path) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    metadata = "/inference.GRPCInferenceService/ServerMetadata"
    with serving(tiny.root, plan, "--replan=off", "--grpc-port", "0", "--auth-tokens", str(tokens)) as live:
        kept = HTTPConnection("127.0.0.1", live.port, timeout=ANSWER_WITHIN_S)
        with grpc.insecure_channel(f"127.0.0.1:{live.grpc_port}") as channel:
            call = channel.unary_unary(metadata, request_serializer=None, response_deserializer=None)

            def codes(token: str) -> tuple[int, grpc.StatusCode]:
                """The status over HTTP and over gRPC."""
                kept.request("GET", "/v2", headers={"Authorization": f"Bearer {token}"})
                response = kept.getresponse()
                response.read()
                try:
                    call(b"", metadata=[("authorization", f"Bearer {token}")], timeout=ANSWER_WITHIN_S)
                except grpc.RpcError as error:
                    return response.status, error.code()
                return response.status, grpc.StatusCode.OK

            allowed, refused = (200, grpc.StatusCode.OK), (401, grpc.StatusCode.UNAUTHENTICATED)
            new = "beef" * 8
            for _ in range(2):
                assert codes(TOKEN) == allowed
            tokens.write_text("short")
            rotated(live, "SIGHUP: kept the tokens")
            assert codes(TOKEN) == allowed
            tokens.write_text(new)
            rotated(live, "SIGHUP: read the tokens again")
            assert codes(TOKEN) == refused
            assert codes(new) == allowed
            tokens.write_text(TOKEN)
            rotated(live, "SIGHUP: read the tokens again")
            assert codes(TOKEN) == allowed
            assert codes(new) == refused
        kept.close()
        assert live.stop() == 0


# --- without tokens


FOREIGN_PAGE = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}


@pytest.mark.live
def test_a_page_of_another_site_can_neither_change_nor_read_a_server_without_tokens(tiny: Tiny) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    unload, ready = "/v2/repository/models/shapes/unload", "/v2/models/shapes/ready"
    with serving(tiny.root, plan, "--replan=off", "--set=allowed-hosts=gpu1.lan, proteus.example") as live:
        for headers in (FOREIGN_PAGE, {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            refused = live.ask("POST", unload, b"{}", headers)
            assert (refused.status, refused.headers["connection"]) == (403, "close")
            assert "--set allowed-hosts" in refused.document()["error"]
        assert live.ask("POST", "/v2/repository//models/shapes/unload", b"{}", FOREIGN_PAGE).status == 403
        assert live.get(ready).status == 200
        for path in ("/", "/metrics", "/v2/proteus/status", "/v2/proteus/history", ready):
            assert live.ask("GET", path, headers={"Host": "evil.example"}).status == 403
            assert live.ask("GET", path, headers={"Host": "proteus.example:8000"}).status == 200
        assert live.ask("GET", "/v2/health/ready", headers={"Host": "evil.example"}).status == 200
        assert live.infer("shapes", GOOD, FOREIGN_PAGE).status == 403
        assert live.infer("shapes", GOOD, {"Content-Type": "text/plain"}).status == 200  # it changes nothing
        assert live.infer("shapes", GOOD, {"Origin": "http://gpu1.lan"}).status == 200
        assert live.stop() == 0
        assert live.log.read_text().count("--set allowed-hosts") == 1


@pytest.mark.live
def test_what_changes_the_server_needs_a_token_and_json(tiny: Tiny) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    unload, ready = "/v2/repository/models/shapes/unload", "/v2/models/shapes/ready"
    with serving(tiny.root, plan, "--replan=off") as live:
        for route in ROUTES:
            if route.changes_state:
                path = route.path.format(model="shapes", family="shapes")
                refused = live.ask(route.method, path, b"{}")
                assert (refused.status, "--auth-tokens" in refused.document()["error"]) == (403, True), path
        assert live.get(ready).status == 200
        assert live.stop() == 0
    with serving(tiny.root, plan, "--replan=off", token=TOKEN) as live:
        assert live.ask("POST", unload, b'{"a":"="}\r\n', {"Content-Type": "text/plain"}).status == 415
        assert live.get(ready).status == 200
        form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl calls it
        assert live.ask("POST", unload, b"{}", form).status == 200
        assert live.get(ready).status == 503
        assert live.stop() == 0


@pytest.mark.live
def test_a_server_in_a_network_without_tokens_says_so_and_answers_to_any_address_and_to_no_name(tiny: Tiny) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    with serving(tiny.root, plan, "--replan=off", "--host", "0.0.0.0") as live:  # noqa: S104 - that is meant
        assert "every client that reaches this address" in live.log.read_text()
        for host, status in (("192.168.7.9:80", 200), ("[fd00::1]:80", 200), ("localhost", 200), ("gpu1.lan", 403)):
            assert live.ask("GET", "/v2", headers={"Host": host}).status == status
        assert live.stop() == 0


def test_an_allowed_host_must_be_one(tiny: Tiny) -> None:
    ended = proteus("serve", "plan", "--set=allowed-hosts=gpu1,http://gpu2", "-w", tiny.root)
    assert ended.refused(2) == "`--set allowed-hosts`: `http://gpu2` is not the name of a host."


# --- TLS


@pytest.mark.live
def test_a_server_with_tls_speaks_nothing_else_and_is_replayed_against(
    tiny: Tiny,
    tokens: Path,
    certificate: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    cert, key, ca = certificate
    options = ("--replan=off", "--tls-cert", str(cert), "--tls-key", str(key), "--auth-tokens", str(tokens))
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,family,slo_s\n" + "".join(f"{number / 50},shapes,20\n" for number in range(20)))
    with serving(tiny.root, plan, *options) as live:
        url = f"https://127.0.0.1:{live.port}"
        connection = HTTPSConnection(
            "127.0.0.1", live.port, timeout=ANSWER_WITHIN_S, context=ssl.create_default_context(cafile=ca)
        )
        known = {"Authorization": f"Bearer {TOKEN}"}
        for _ in range(2):
            connection.request("POST", "/v2/models/shapes/infer", json.dumps(GOOD), known)
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (200, True)
        connection.close()
        with pytest.raises((ConnectionError, OSError)):
            live.get("/v2")

        def replayed(*arguments: str | Path) -> Any:
            return proteus("replay", trace, "--url", url, "-w", tiny.root, "--json", *arguments)

        assert "certificate" in replayed().refused(1)
        refused = replayed("--ca", ca)
        assert "401" in refused.refused(1)
        assert "PROTEUS_TOKEN" in refused.stderr
        monkeypatch.setenv("PROTEUS_TOKEN", TOKEN)
        ended = replayed("--ca", ca)
        assert ended.document()["served"] == 20
        assert TOKEN not in ended.stdout + ended.stderr
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


@pytest.mark.live
def test_sighup_reads_the_certificate_again_and_keeps_the_old_one_where_the_new_one_cannot_be_used(
    tiny: Tiny, certificate: tuple[Path, Path, Path]
) -> None:
    """Also one with a key of another type, which OpenSSL would keep beside the old one. Open connections go on."""
    cert, key, ca = certificate
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    options = ("--replan=off", "--grpc-port", "0", "--tls-cert", str(cert), "--tls-key", str(key))
    with serving(tiny.root, plan, *options) as live:

        def presented(port: int) -> bytes | None:
            context = ssl.create_default_context(cafile=ca)
            with (
                socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN_S) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
            ):
                return secured.getpeercert(binary_form=True)

        first = ssl.PEM_cert_to_DER_cert(cert.read_text())
        context = ssl.create_default_context(cafile=ca)
        kept = HTTPSConnection("127.0.0.1", live.port, timeout=ANSWER_WITHIN_S, context=context)
        kept.request("GET", "/v2")
        assert kept.getresponse().read()
        assert {presented(live.port), presented(live.grpc_port)} == {first}
        authority = trustme.CA()
        authority.cert_pem.write_to_path(ca)
        made = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
        made.cert_chain_pems[0].write_to_path(cert)
        rotated(live, "SIGHUP: kept the certificate")
        made.private_key_pem.write_to_path(key)
        rotated(live, "SIGHUP: read the certificate again")
        second = ssl.PEM_cert_to_DER_cert(cert.read_text())
        assert {presented(live.port), presented(live.grpc_port)} == {second} != {first}
        kept.request("GET", "/v2")
        assert kept.getresponse().status == 200
        kept.close()
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


def garbage(certificate: Path, key: Path) -> None:
    certificate.write_text("nonsense")


def no_key(certificate: Path, key: Path) -> None:
    key.unlink()


def of_another(certificate: Path, key: Path) -> None:
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(key)


def swapped(certificate: Path, key: Path) -> None:
    contents = certificate.read_bytes(), key.read_bytes()
    key.write_bytes(contents[0])
    certificate.write_bytes(contents[1])


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (garbage, "can't be used: "),
        (no_key, "server.key`."),
        (of_another, "can't be used: key values mismatch."),
        (swapped, "can't be used: "),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused(
    tiny: Tiny, certificate: tuple[Path, Path, Path], break_it: Callable[[Path, Path], None], problem: str
) -> None:
    cert, key, _ = certificate
    break_it(cert, key)
    add_plan(tiny, {"cpu0": "shapes-s"})
    ended = proteus("serve", "plan", "--port", "0", "--tls-cert", cert, "--tls-key", key, "-w", tiny.root)
    assert problem in ended.refused(2)


def test_a_certificate_needs_its_key(tiny: Tiny, certificate: tuple[Path, Path, Path]) -> None:
    ended = proteus("serve", "plan", "--tls-cert", certificate[0], "-w", tiny.root)
    assert ended.refused(2) == "`--tls-cert` and `--tls-key` go together."


def test_a_key_with_a_passphrase_is_not_asked_for(tiny: Tiny, certificate: tuple[Path, Path, Path]) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - only here

    cert, key, _ = certificate
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(
        loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, secret)
    )
    add_plan(tiny, {"cpu0": "shapes-s"})
    ended = proteus("serve", "plan", "--port", "0", "--tls-cert", cert, "--tls-key", key, "-w", tiny.root)
    assert "can't be used" in ended.refused(2)
    assert "passphrase" in ended.stderr


def test_a_certificate_to_trust_that_is_none_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    trace, ca = tmp_path / "t.csv", tmp_path / "ca.pem"
    trace.write_text("arrival_s,family\n0,shapes\n")
    ca.write_text("nonsense")
    ended = proteus("replay", trace, "--url", "https://127.0.0.1:1", "--ca", ca, "-w", tiny.root)
    assert "holds no certificate" in ended.refused(2)
