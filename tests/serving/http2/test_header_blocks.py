"""Header blocks say what hpack says they do."""

from typing import Any

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.serving.http2.frames import ConnectionFault, ErrorCode
from proteus_cli.serving.http2.header_blocks import HeaderBlocks
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.transport.connections import Turn

LIMITS = Http2Limits(header_list_bytes=2_000)
texts = st.sampled_from([b"", b"a", b"content-type", b":path", b"/v2", b"x" * 300, b"trailers"]) | st.binary(
    max_size=20
)
field_lists = st.lists(st.lists(st.tuples(texts, texts, st.booleans()), max_size=6), min_size=1, max_size=8)
sizes = st.lists(st.integers(0, 4096), max_size=2)


FieldLists = list[list[tuple[bytes, bytes, bool]]]
HUFFMAN = st.sampled_from([True, False])


def blocks() -> "HeaderBlocks[Any]":
    return HeaderBlocks(LIMITS, lambda fields: fields, Turn())


def check_alike(ours: "HeaderBlocks[Any]", theirs: Decoder, block: bytes) -> bool:
    """Both read the block alike; False where both refuse it."""
    try:
        expected = [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
    except HPACKError:
        with pytest.raises(ConnectionFault):
            ours.decode(block)
        return False
    assert ours.decode(block) == expected
    assert list(ours._table.dynamic_entries) == list(theirs.header_table.dynamic_entries)
    assert ours._table.maxsize == theirs.header_table_size
    return True


@given(field_lists, sizes, HUFFMAN)
def test_blocks_of_an_encoder_are_decoded(lists: FieldLists, sizes: list[int], huffman: Any) -> None:
    encoder, ours, theirs = Encoder(), blocks(), Decoder(LIMITS.header_list_bytes)
    for number, fields in enumerate(lists):
        if number < len(sizes):
            encoder.header_table_size = sizes[number]
        if not check_alike(ours, theirs, encoder.encode(fields, huffman=huffman)):
            return


@given(field_lists, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5), HUFFMAN)
def test_broken_blocks_are_refused_as_hpack_does(
    lists: FieldLists,
    mistakes: list[tuple[int, int]],
    huffman: Any,
) -> None:
    encoder, ours, theirs = Encoder(), blocks(), Decoder(LIMITS.header_list_bytes)
    for fields in lists:
        block = bytearray(encoder.encode(fields, huffman=huffman))
        for place, value in mistakes:
            if block:
                block[place % len(block)] = value
        if not check_alike(ours, theirs, bytes(block)):
            return


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_garbage_is_refused_as_hpack_does(garbage: list[bytes]) -> None:
    ours, theirs = blocks(), Decoder(LIMITS.header_list_bytes)
    for block in garbage:
        if not check_alike(ours, theirs, block):
            return


def test_a_list_that_is_too_large_costs_no_memory() -> None:
    """An entry of the table is named again and again, by one byte each."""
    with pytest.raises(ConnectionFault) as found:
        blocks().decode(b"\x40\x01a\x7f\x85\x00" + b"x" * 132 + b"\x84" + b"\xbe" * 100_000)
    assert found.value.code is ErrorCode.ENHANCE_YOUR_CALM
