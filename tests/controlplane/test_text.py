from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.controlplane import jsontext, yamltext
from gwproxy.controlplane.text import MAX_BYTES, read, to_json
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Problem

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def problems(data: bytes | str, file: str = "g.yaml") -> tuple[Problem, ...]:
    with pytest.raises(ConfigurationRefused) as caught:
        read(data.encode() if isinstance(data, str) else data, file)
    return caught.value.problems


def only(data: bytes | str, file: str = "g.yaml") -> Problem:
    (problem,) = problems(data, file)
    assert problem.file == file
    return problem


# ---- anything at all


def outcome(data: bytes, file: str) -> object:
    """Return the tree, or the problems; anything else that is raised fails the test."""
    try:
        return read(data, file).tree
    except ConfigurationRefused as refused:
        return refused.problems


@given(st.binary(max_size=300), st.sampled_from(["g.yaml", "g.json", "gw:routes"]))
def test_arbitrary_bytes_are_read_or_refused(data: bytes, file: str) -> None:
    result = outcome(data, file)
    if isinstance(result, tuple):
        assert result
        assert all(problem.found and problem.expected for problem in result)
    else:
        assert orjson.loads(to_json(data, file)) == result


@given(st.text(alphabet="{}[]\",:\\ \n-&*!#tnf01.eE~<|>'u\ud7ff", max_size=60))
def test_texts_of_punctuation_are_read_or_refused(text: str) -> None:
    result = outcome(text.encode(), "g.yaml")
    assert result != ()
    if isinstance(result, tuple):
        assert all(problem.found and problem.expected for problem in result)


@given(VALUES.filter(lambda value: isinstance(value, (list, dict))))
def test_json_is_read_as_what_it_says(value: object) -> None:
    data = json.dumps(value).encode()
    assert read(data, "gw:routes").tree == value
    assert orjson.loads(to_json(data, "gw:routes")) == value


@given(VALUES)
def test_the_two_json_readers_agree_on_what_is_wrong(value: object) -> None:
    text = json.dumps(value)
    assert jsontext.load(text) == value
    assert jsontext.scan(text) == []
    broken = text[:-1]
    try:
        json.loads(broken)
    except ValueError:
        with pytest.raises(jsontext.NotJson):
            jsontext.scan(broken)


# ---- bytes


def test_G16_invalid_utf8_has_its_place() -> None:
    problem = only(b"routes: []\n# \xc3\xa9\xff\n")
    assert (problem.line, problem.column) == (2, 4)
    assert "0xff" in problem.found


def test_G16_invalid_utf8_after_a_bom_has_its_place() -> None:
    problem = only(b"\xef\xbb\xbfa: \xff")
    assert (problem.line, problem.column) == (1, 4)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-be"])
def test_G16_other_encodings_are_named(encoding: str) -> None:
    problem = only("routes: []".encode(encoding))
    assert "UTF-8" in problem.expected
    assert "UTF-16" in problem.found


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert read(b"\xef\xbb\xbf[]", "g.json").tree == []
    source = read(b"\xef\xbb\xbfroutes: [1]", "g.yaml")
    assert source.place(("routes",)) == (1, 9)


def test_G15_too_many_bytes() -> None:
    problem = only(b" " * (MAX_BYTES + 1))
    assert problem.found == f"{MAX_BYTES + 1} bytes"


@pytest.mark.parametrize("text", ["", "  \n", "# nothing\n", "---\n", "~"[:0]])
def test_an_empty_document_is_told_what_to_write(text: str) -> None:
    problem = only(text)
    assert problem.found == "an empty document"
    assert "'[]'" in problem.expected


def test_an_empty_json_file_is_refused() -> None:
    assert only("", "g.json").found == "an empty document"


def test_a_control_character_has_its_place() -> None:
    problem = only("a: b\nc: \x07\n")
    assert (problem.line, problem.column, problem.found) == (2, 4, "the control character U+0007")


# ---- JSON


@pytest.mark.parametrize(
    ("text", "line", "column", "found"),
    [
        ('{"a": 1,\n "b": 2,\n "a": 3}', 3, 2, "the key 'a', which is given twice"),
        ('{"a": [1,\n NaN]}', 2, 2, "NaN"),
        ('{"a": -Infinity}', 1, 7, "-Infinity"),
        ('{"a": 1e999}', 1, 7, "a number that is too large"),
        ('{"a": 18446744073709551616}', 1, 7, "a number that is too large"),
        ('{"a": ' + "9" * 5000 + "}", 1, 7, "a number that is too large"),
        ('{"a": "x\\ud800"}', 1, 7, "half a surrogate pair"),
    ],
)
def test_G16_what_json_grammar_allows_and_we_do_not(text: str, line: int, column: int, found: str) -> None:
    problem = only(text, "gw:routes")
    assert (problem.line, problem.column, problem.found) == (line, column, found)


def test_G16_every_duplicate_is_reported_with_its_path() -> None:
    found = problems('{"a": {"x": 1, "x": 2}, "b": [{"y": 1, "y": 2}]}')
    assert [problem.path for problem in found] == ["a.x", "b[0].y"]


def test_surrogate_pairs_are_fine() -> None:
    assert read(b'["\\ud83d\\ude00"]', "g.json").tree == ["\U0001f600"]


@pytest.mark.parametrize(
    ("text", "line", "column", "found", "expected"),
    [
        ('{"routes": [\n  {"path": "/a"', 2, 16, "the end of the text", "',' or '}'"),
        ('{"routes": [{"path": "/a', 1, 22, "a string that is not closed", "a closing quote"),
        ('{"a" 1}', 1, 6, "'1'", "':'"),
        ("{a: 1}", 1, 2, "'a'", "a key in double quotes"),
        ("[1,]", 1, 4, "']'", "a value"),
        ("[1] 2", 1, 5, "'2'", "the end of the document"),
        ('["\\x"]', 1, 3, "the escape '\\\\x'", "one of"),
        ("[yes]", 1, 2, "'yes'", "a value"),
        ("[01]", 1, 3, "'1'", "',' or ']'"),
        ('["a\nb"]', 1, 2, "a string that is not closed", "control characters as"),
    ],
)
def test_G19_broken_json_has_its_place(text: str, line: int, column: int, found: str, expected: str) -> None:
    problem = problems(text, "g.json")[-1]
    assert (problem.line, problem.column, problem.found) == (line, column, found)
    assert expected in problem.expected


def test_G19_truncated_json_in_the_store_is_reported_as_json() -> None:
    text = '{"routes": [{"path": "/a", "upstream": "http://a"}'
    assert only(text, "gw:routes").expected == "',' or ']'"


@pytest.mark.parametrize("text", ["[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65, "[" * 100_000])
def test_G15_nesting_is_bounded(text: str) -> None:
    for file in ("g.json", "gw:routes"):
        assert "nested too deep" in only(text, file).found
    assert read(("[" * 64 + "]" * 64).encode(), "g.json").tree == json.loads("[" * 64 + "]" * 64)


def test_flow_yaml_is_yaml_where_the_name_allows_it() -> None:
    text = b"{routes: [{path: /a, upstream: 'http://a'},]}"
    assert read(text, "g.yaml").tree == {"routes": [{"path": "/a", "upstream": "http://a"}]}
    assert problems(text, "g.json")[0].expected == "a key in double quotes"


def test_flow_yaml_with_an_alias_is_told_about_the_alias() -> None:
    assert "*x" in problems("{routes: [*x]}", "g.yaml")[0].found


# ---- YAML


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("+12", 12),
        ("-7", -7),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("2024-01-01", "2024-01-01"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("=", "="),
        ("|-\n  12", "12"),
    ],
)
def test_G17_scalars_are_those_of_yaml_1_2(written: str, value: object) -> None:
    tree = read(f"a: {written}\n".encode(), "g.yaml").tree
    assert tree == {"a": value}
    assert type(tree["a"]) is type(value)


def test_keys_are_strings_as_written() -> None:
    assert read(b"on: 1\n404: 2\ntrue: 3\n2024-01-01: 4\n", "g.yaml").tree == {"on": 1, "404": 2, "true": 3, "2024-01-01": 4}


@pytest.mark.parametrize(
    ("text", "line", "column", "found"),
    [
        ("a: &x 1", 1, 4, "the anchor &x"),
        ("a: 1\nb: *x", 2, 4, "the alias *x"),
        ("a: !!python/object:os.system x", 1, 4, "the tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !!str 1", 1, 4, "the tag 'tag:yaml.org,2002:str'"),
        ("a: !custom {}", 1, 4, "the tag '!custom'"),
        ("<<: {a: 1}", 1, 1, "the merge key <<"),
        ("? [a]\n: 1", 1, 3, "a key that is no scalar"),
        ("a: 1\na: 2", 2, 1, "the key 'a', which is given twice"),
        ("a: .inf", 1, 4, ".inf"),
        ("a: -.INF", 1, 4, "-.INF"),
        ("a: .nan", 1, 4, ".nan"),
        ("a: 1e999", 1, 4, "1e999"),
        ("a: 99999999999999999999999", 1, 4, "99999999999999999999999"),
        ("a: 1\n--- \nb: 2", 2, 1, "a second document"),
    ],
)
def test_G17_what_json_has_not_is_refused(text: str, line: int, column: int, found: str) -> None:
    problem = problems(text)[0]
    assert (problem.line, problem.column, problem.found) == (line, column, found)


def test_G17_a_bomb_of_aliases_is_not_expanded() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    assert len(problems("\n".join(lines))) == 40 + 39 * 10


def test_G17_quotes_make_a_string_of_a_merge_key() -> None:
    assert read(b"'<<': 1", "g.yaml").tree == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [("a: [1\nb: 2", 2, 2), ("a: 'x", 1, 6), ("a:\n\tb: 1", 2, 1), ("a: b: c", 1, 5), ("routes:\n  - path: /a\n upstream: x", 3, 2)],
)
def test_G19_broken_yaml_has_its_place(text: str, line: int, column: int) -> None:
    problem = problems(text)[-1]
    assert (problem.line, problem.column, problem.expected) == (line, column, "YAML or JSON")


def test_what_stands_before_broken_yaml_is_reported_too() -> None:
    assert [problem.line for problem in problems("a: 1\na: 2\nb: *x\nc: [")] == [2, 3, 4]


def test_G15_yaml_nesting_is_bounded() -> None:
    assert "nested too deep" in only("a: " + "[" * 64 + "]" * 64).found


def test_yaml_pauses_now_and_then() -> None:
    pauses: list[None] = []
    read(b"- a\n" * 5000, "g.yaml", lambda: pauses.append(None))
    assert len(pauses) == 5


def test_what_no_number_spells_is_a_string() -> None:
    assert yamltext.plain("5 apples") == "5 apples"


# ---- places


TEXT_PLACES = '{"routes": [{"path": "/a",\n  "hosts": ["x",\n "y"]}], "e\\u0041": {}}'


@pytest.mark.parametrize("file", ["gw:routes", "g.yaml"])
@pytest.mark.parametrize(
    ("path", "key", "place"),
    [
        ((), False, (1, 1)),
        (("routes",), False, (1, 12)),
        (("routes",), True, (1, 2)),
        (("routes", 0, "path"), False, (1, 22)),
        (("routes", 0, "hosts", 1), False, (3, 2)),
        (("routes", 0, "hosts"), True, (2, 3)),
        (("routes", 0, "hosts", 7), False, (2, 12)),
        (("routes", 0, "missing", "x"), False, (1, 13)),
        (("eA",), True, (3, 10)),
    ],
)
def test_places_are_the_same_in_both_languages(file: str, path: tuple[str | int, ...], key: bool, place: tuple[int, int]) -> None:
    text = TEXT_PLACES if file == "gw:routes" else TEXT_PLACES + " # a comment makes it YAML"
    assert read(text.encode(), file).place(path, key=key) == place


def test_places_in_an_array_are_those_of_its_routes() -> None:
    assert read(b'[\n {"path": "/a"}]', "g.json").place(("routes", 0, "path")) == (2, 11)


# ---- publishing


def test_yaml_is_published_as_json_with_its_keys_in_order() -> None:
    text = b"# comment\nroutes:\n  - upstream: http://a\n    path: /b\nplugins: []\n"
    assert to_json(text, "g.yaml") == b'{"routes":[{"upstream":"http://a","path":"/b"}],"plugins":[]}'


def test_references_are_published_as_written() -> None:
    assert to_json(b"a: ${GW_X:-1}\nb: $${x}", "g.yaml") == b'{"a":"${GW_X:-1}","b":"$${x}"}'
