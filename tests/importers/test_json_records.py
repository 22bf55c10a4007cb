"""How a stream of bytes becomes records, each with its line."""

from __future__ import annotations

import gzip
import io
import json
import os
import time

import pytest

import memory_storage as ms
from memory_storage.importers import Record, json_records, read_records
from tests.raising import raises


def read(data: bytes | str, **options: int) -> list[Record]:
    return list(read_records(io.BytesIO(data if isinstance(data, bytes) else data.encode()), **options))


def lines_of(data: bytes | str) -> list[tuple[int, object]]:
    return [(record.line, record.problem or record.content) for record in read(data)]


def test_json_lines_are_records_with_their_lines():
    assert lines_of('{"a": 1}\n\n  \n{"a": 2}\n') == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_an_array_is_records_with_their_lines(ending):
    text = ending.join(["", "[", '  {"a": 1},', '  {"a":', "   2}", " , 3", "]", ""])
    assert lines_of(text) == [(3, {"a": 1}), (4, {"a": 2}), (6, "not a JSON object")]


def test_an_array_on_one_line_is_records():
    assert lines_of('[{"a": 1}, {"a": 2}]') == [(1, {"a": 1}), (1, {"a": 2})]


def test_one_object_over_several_lines_is_one_record():
    record = {"messages": [{"role": "user", "content": "Grüße"}]}
    assert lines_of(json.dumps(record, indent=2)) == [(1, record)]


@pytest.mark.parametrize("nothing", ["", "\n \n", "[]", " [ ] \n"])
def test_a_file_without_records_has_none(nothing):
    assert lines_of(nothing) == []


@pytest.mark.parametrize("rest", ['{"a": 1}\n', '[{"a": 1}]'])
def test_a_byte_order_mark_is_ignored(rest):
    assert lines_of(b"\xef\xbb\xbf" + rest.encode()) == [(1, {"a": 1})]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (b'{"a": ', "not JSON: Expecting value"),
        (b'{"a": 1} {"a": 2}', "not JSON: Extra data"),
        (b'{"a": "caf\xe9"}', "not UTF-8: byte 11 of the line"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"a": NaN}', "not JSON: NaN"),
        (b'{"a": -Infinity}', "not JSON: -Infinity"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": {"b": 1, "b": 2}}', "the key 'b' is given twice"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the value is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_an_invalid_line_is_a_problem_and_the_others_are_read(broken, problem):
    before, bad, after = read(b'{"n": 1}\n' + broken + b'\n{"n": 2}')
    assert (before.content, after.content) == ({"n": 1}, {"n": 2})
    assert bad.line == 2
    assert problem in bad.problem


def test_a_last_line_that_was_cut_off_is_a_problem():
    good, cut = read('{"n": 1}\n{"n": 2, "text": "and th')
    assert good.content == {"n": 1}
    assert cut.line == 2
    assert "not JSON: Unterminated string" in cut.problem


def test_a_line_that_is_too_long_is_skipped_and_not_held():
    found = read(b'{"n": 1}\n{"text": "' + b"x" * 5000 + b'"}\n{"n": 2}\n', line_bytes=1000)
    assert [(record.line, record.content) for record in found] == [(1, {"n": 1}), (2, {}), (3, {"n": 2})]
    assert found[1].problem == "the line has more than 1,000 bytes"


def test_a_line_of_an_export_is_bounded_too(monkeypatch):
    monkeypatch.setattr(json_records, "DOCUMENT_BYTES", 2_000)
    lines = b'{"kind": "header"}\n{"text": "' + b"x" * 1_900 + b'"}\n{"text": "' + b"x" * 2_000 + b'"}\n{"n": 3}\n'
    _, long, longer, last = read_records(io.BytesIO(lines), line_bytes=1_000, is_header=lambda record: True)
    assert (len(long.content["text"]), long.problem) == (1_900, "")
    assert (longer.line, longer.problem) == (3, "the line has more than 2,000 bytes")
    assert last.content == {"n": 3}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[\n{"n": 1},\n{"n": 2', 3, "Expecting ',' delimiter"),
        ('[\n{"n": 1},\n', 3, "Expecting value"),
        ('[\n{"n": 1}\n', 3, "Expecting ',' or ']'"),
        ('[\n{"n": 1}\n{"n": 2}]', 3, "Expecting ',' or ']'"),
        ('[\n{"n": 1},\noops]', 3, "Expecting value"),
        ('{\n"n": 1}\noops', 3, "Expecting value"),
    ],
)
def test_what_follows_a_break_in_an_array_is_a_problem(text, line, problem):
    *good, bad = read(text)
    assert [record.content for record in good] == [{"n": 1}]
    assert bad.line == line
    assert problem in bad.problem
    assert "nothing from here on was read" in bad.problem


def test_a_broken_element_of_an_array_does_not_touch_the_others():
    assert lines_of('[{"n": 1},\n{"n": NaN},\n{"n": 2}]') == [(1, {"n": 1}), (2, "not JSON: NaN"), (3, {"n": 2})]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_refused(encoding):
    with raises(ms.ValidationError, field="file", match="must be UTF-8"):
        read('{"n": 1}\n'.encode(encoding))


def test_an_array_that_is_not_utf_8_is_refused_with_its_line():
    with raises(ms.ValidationError, field="file", match="line 2 is not"):
        read(b'[{"n": 1},\n{"n": "caf\xe9"}]')


def test_the_sizes_are_those_of_the_stream():
    data = b'{"n": 1}\n\n{"n": 2}\n'
    assert sum(record.size for record in read(data)) == len(data) - 1


@pytest.mark.parametrize(
    "text", ['{\n"n": 1}\n{"n":\n 2}\n', '[\n{"n": 1}]\n{"n": 2}', '\x1e{\n"n": 1}\n\x1e{"n": 2}\n']
)
def test_values_one_after_the_other_are_all_read(text):
    assert [record.content for record in read(text)] == [{"n": 1}, {"n": 2}]


def test_a_document_that_spans_lines_is_read_completely():
    text = '{"messages": [\n  {"role": "user", "content": "Go"},\n  {"role": "assistant", "content": "Done"}\n]}\n'
    assert lines_of(text) == [(1, json.loads(text))]


def test_a_document_that_was_cut_off_is_one_problem():
    (record,) = read('{"messages": [\n  {"role": "user", "content": "Go"},\n  {"role": "assistant"}\n')
    assert record.line == 4
    assert "nothing from here on was read" in record.problem


def test_an_invalid_first_line_does_not_affect_the_others():
    broken, good = read('{"n": 1, "text\n{"n": 2}\n')
    assert "not JSON: Invalid control character" in broken.problem
    assert good.content == {"n": 2}


def test_gzip_is_read():
    assert lines_of(gzip.compress(b'{"n": 1}\n{"n": 2}\n')) == [(1, {"n": 1}), (2, {"n": 2})]


@pytest.mark.parametrize("rest", [b"", b"garbage"])
def test_damaged_gzip_is_reported_after_the_readable_records(rest):
    lines = b"".join(b'{"n": %d, "text": "%s"}\n' % (n, os.urandom(500).hex().encode()) for n in range(100))
    *records, last = read(gzip.compress(lines)[:-2000] + rest)
    assert "the gzip data is damaged" in last.problem
    readable = [record.content["n"] for record in records if not record.problem]
    assert readable == list(range(len(readable)))
    assert len(readable) > 90
    # What garbage decompresses to may end the line that was cut, which is not JSON then.
    assert all(record.problem for record in records[len(readable) :])


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"a": ["x", {"b": "\\u0000"}]}', "a.1.b: text cannot hold the NUL character"),
        ('{"a": "title \\ud83c"}', "a: text cannot hold the lone surrogate U+D83C"),
        ('{"a": {"\\udfff": 1}}', "a.a key: text cannot hold the lone surrogate U+DFFF"),
    ],
)
def test_what_cannot_be_stored_is_named_or_replaced(text, field):
    (record,) = read(text)
    assert record.problem == f"{field}; --replace-invalid replaces it by U+FFFD"
    (record,) = read(text, replace_invalid=True)
    assert record.problem == ""
    assert "\ufffd" in json.dumps(record.content, ensure_ascii=False)


def test_bytes_that_are_not_utf_8_can_be_replaced():
    assert read(b'{"a": "caf\xe9"}', replace_invalid=True)[0].content == {"a": "caf\ufffd"}


def test_an_emoji_of_two_surrogates_is_text():
    assert read('{"a": "\\ud83c\\udf89"}')[0].content == {"a": "\U0001f389"}


@pytest.mark.slow
def test_a_key_given_twice_is_found_by_one_look_at_each_key():
    # 20 times the keys take 20 times as long, not 400 times: the margin is wide.
    small, large = (duration_of_reading(count) for count in (10_000, 200_000))
    assert large / small < 100


def duration_of_reading(count: int) -> float:
    keys = ",".join(f'"k{number}": 1' for number in range(count))
    text = f'{{{keys}, "k{count - 1}": 2}}'
    durations = []
    for _ in range(3):
        start = time.process_time()
        (record,) = read(text)
        durations.append(time.process_time() - start)
    assert record.problem == f"the key 'k{count - 1}' is given twice"
    return min(durations)
