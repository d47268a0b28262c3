"""The dates of a certificate are read as OpenSSL reads them, and told in time."""

import logging
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509

from proteus_cli.serving.transport.certificate import ENDS_SOON, validity, warn_of_dates

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def issued(start: datetime, end: datetime) -> bytes:
    """The PEM of a certificate and of the authority that signed it."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost", not_before=start, not_after=end)
    return b"A comment\n" + b"".join(blob.bytes() for blob in made.cert_chain_pems) + authority.cert_pem.bytes()


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (NOW, NOW + timedelta(days=90)),
        (datetime(1951, 2, 3, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (datetime(1999, 12, 31, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)),
        (datetime(2055, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_the_dates_are_those_that_others_read(start: datetime, end: datetime) -> None:
    pem = issued(start, end)
    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN") :])
    assert validity(pem) == (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (start, end)


@pytest.mark.parametrize(
    ("start", "end", "warning"),
    [
        (NOW - timedelta(days=2), NOW - timedelta(days=1), "expired on 2026-11-25 12:00 UTC"),
        (NOW + timedelta(days=1), NOW + timedelta(days=2), "is valid from 2026-11-27 12:00 UTC on"),
        (NOW - timedelta(days=1), NOW + ENDS_SOON - timedelta(seconds=1), "expires on 2026-12-03 11:59 UTC"),
        (NOW - timedelta(days=1), NOW + ENDS_SOON, ""),
    ],
)
def test_a_certificate_that_clients_refuse_or_soon_will_is_warned_of(
    start: datetime, end: datetime, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_dates(issued(start, end), "server.pem", NOW)
    records = [(record.levelno, record.message) for record in caplog.records]
    if not warning:
        assert records == []
    else:
        ((level, message),) = records
        assert level == logging.WARNING
        assert "`server.pem`" in message
        assert warning in message
