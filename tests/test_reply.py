from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minisheep.engines.sampling import GrowingReply


def fed(pieces: list[bytes], stops: tuple[str, ...] = ()) -> GrowingReply:
    reply = GrowingReply(stops)
    for piece in pieces:
        if reply.feed(piece):
            break
    return reply


def test_a_character_split_over_tokens_comes_out_whole() -> None:
    assert fed([b"caf\xc3", b"\xa9 \xf0\x9f", b"\x90\x91"]).text == "café 🐑"


def test_a_character_cut_off_at_the_end_is_left_out() -> None:
    assert fed([b"ok \xf0\x9f\x90"]).text == "ok "


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert fed([b"a\xffb"]).text == "a\ufffdb"


def test_a_stop_string_over_several_tokens_ends_the_text() -> None:
    reply = fed([b"Yes.\n", b"\nQ", b"uestion", b": what"], ("\n\nQuestion:",))
    assert (reply.text, reply.stopped) == ("Yes.", True)


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert fed([b"one two three"], ("three", "two")).text == "one "


def test_an_empty_stop_string_never_stops() -> None:
    assert not fed([b"text"], ("",)).stopped


def test_nothing_is_added_after_a_stop() -> None:
    reply = GrowingReply(("x",))
    assert reply.feed(b"ax") and reply.feed(b"b")
    assert reply.text == "a"


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.data())
def test_however_the_text_is_cut_it_ends_where_a_stop_string_begins(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    reply = GrowingReply(stops)
    for piece in pieces:
        reply.feed(piece)
    places = [text.find(stop) for stop in stops if stop in text]
    if places and reply.stopped:
        # A later stop string can be complete before an earlier, longer one is.
        assert text.startswith(reply.text)
        assert len(reply.text) in places
    else:
        assert not places and reply.text == text


@given(st.text("abX\n", max_size=30), st.lists(st.text("abX\n", min_size=1, max_size=4), max_size=3), st.data())
def test_what_is_settled_is_never_taken_back(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    reply, told = GrowingReply(stops), ""
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        reply.feed(text[start:end].encode())
        assert reply.settled.startswith(told)
        told = reply.settled
    assert reply.text.startswith(told)
    assert reply.text == told or not reply.stopped


def test_only_the_beginning_of_a_stop_string_is_held_back() -> None:
    reply = GrowingReply(("\nInput:",))
    reply.feed(b"Yes.\nIn")
    assert reply.settled == "Yes."
    reply.feed(b"deed")
    assert reply.settled == "Yes.\nIndeed"
