"""Documents: whatever is wrong with one is said in one line: the file, the key, what is expected and what is found."""

import os

import pytest

from fvae.documents import CSV, JSON, YAML, Document, UniqueNames, read_document
from fvae.errors import InputError


class Example(Document):
    names: UniqueNames = []
    n: int = 1
    x: float = 1.0
    rows: list[dict[str, float]] = []


DEEP, MANY = "[" * 100_000, "9" * 5000
BOMB = "n: &a [1, 1]\nrows: &b [*a, *a]\nx: &c [*b, *b]"
BROKEN = [
    (JSON, "", "not valid JSON"),
    (JSON, "[]", "expected settings by name (names, n, x, rows), found list"),
    (JSON, DEEP, "not valid JSON (maximum recursion depth exceeded"),
    (JSON, f'{{"n": {MANY}}}', "not valid JSON (Exceeds the limit"),
    (JSON, '{"n": 1, "n": 2}', "not valid JSON (expected different names, found 'n' twice)"),
    (JSON, '{"n": NaN}', "n: input should be a valid integer, found nan"),
    (JSON, '{"n": "1"}', "n: input should be a valid integer, found '1'"),
    (JSON, '{"m": 1}', "m: no such setting"),
    (JSON, '{"names": ["a", "a"]}', "names: expected different names, found 'a' twice"),
    (JSON, " " * 2**24 + "{}", "expected at most 16,777,216 bytes, found 16,777,218"),
    (YAML, BOMB, "not valid YAML (an alias inside an anchor)"),
    (YAML, "n: &a [*a]", "not valid YAML (an alias inside an anchor)"),
    (YAML, "n: 1\nn: 2", "not valid YAML (expected different names, found 'n' twice)"),
    (YAML, f"n: {DEEP}", "not valid YAML"),
    (YAML, f"names: 0x{MANY}", "names: input should be a valid list, found "),
    (YAML, "1: 2", "keys should be strings, found 1"),
    (YAML, "a: b: c", "not valid YAML (line 1: "),
    (YAML, "n: !!python/name:os.system", "not valid YAML (line 1: could not determine a constructor"),
    (CSV, "a,a\n1,2", "not valid CSV (expected different names, found 'a' twice)"),
    (CSV, "a,b\n1", "rows.0.b: input should be a valid number, found None"),
    (CSV, "a\n1,2", "rows.0.None"),
]


@pytest.mark.parametrize(("form", "content", "message"), BROKEN)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_is_wrong_is_said_in_one_line(form, content, message, encoding, tmp_path):
    path = tmp_path / "document"
    path.write_text(content, encoding=encoding)
    with pytest.raises(InputError) as found:
        read_document(path, Example, form)
    text = str(found.value)
    assert text.startswith(f"{path}: ") and len(text) < len(str(path)) + 300 and "\n" not in text
    assert encoding == "utf-16" or "bytes" in text or message in text


@pytest.mark.parametrize("form", [JSON, YAML, CSV])
def test_what_is_no_file_is_not_opened(form, tmp_path):
    """A pipe would be waited for, a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "device", tmp_path / "none"):
        with pytest.raises(InputError, match=f"{path.name}: (expected a file, found a (folder|pipe)|no such file)"):
            read_document(path, Example, form)
