"""Documents: files that hold no data but describe it, a model or a run; each is checked by a schema that it declares.

Whatever is wrong with one is an ``InputError`` of one line: the file, the key, what was expected and what was found.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel

from fvae.errors import InputError, one_line
from fvae.schema import CONFIG, checked


class Document(BaseModel):
    """The schema of a document: its keys and their types; others are refused."""

    model_config = CONFIG


class Format(NamedTuple):
    """How a kind of document is parsed, how large it may be, and whether its numbers are text."""

    name: str
    parse: Callable[[Path], Any]
    limit: float = 2**24  # bytes
    lax: bool = False


Schema = TypeVar("Schema", bound=BaseModel)


def read_document(path: Path, schema: type[Schema], form: Format, missing: str = "no such file") -> Schema:
    """The content of a file, checked; ``missing`` is said where there is none. Raises ``InputError``."""
    need_regular_file(path, missing, form.limit)
    try:
        content = form.parse(path)
    except Exception as error:  # of many parsers: any kind
        raise InputError(f"{path}: not valid {form.name} ({one_line(error)})") from None
    if not isinstance(content, dict):
        names = ", ".join(schema.model_fields)
        raise InputError(f"{path}: expected settings by name ({names}), found {type(content).__name__}")
    return check_document(path, schema, content, form.lax)


def check_document(path: Path, schema: type[Schema], content: dict[str, Any], lax: bool = False) -> Schema:
    """The content of the file ``path`` as the schema has it; raises ``InputError``."""
    try:
        return checked(schema, content, lax)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def need_regular_file(path: Path, missing: str = "no such file", limit: float = float("inf")) -> None:
    """Refuse what may have no end (a pipe, a device), or is larger than ``limit`` bytes; raises ``InputError``."""
    if not path.exists():
        raise InputError(f"{path}: {missing}")
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found a {'folder' if path.is_dir() else 'pipe or a device'}")
    if (size := path.stat().st_size) > limit:
        raise InputError(f"{path}: expected at most {limit:,.0f} bytes, found {size:,}")


def unique_names(names: list[Any]) -> list[Any]:
    """The names, of which none may come twice; raises ``ValueError``."""
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"expected different names, found {twice[0]!r:.40} twice")
    return names


def table(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A table of its keys and values; raises ``ValueError`` for a key that comes twice."""
    unique_names([key for key, _ in pairs])
    return dict(pairs)


class Loader(yaml.SafeLoader):
    """YAML without repeated keys, and without aliases inside anchors, by which a few lines stand for gigabytes."""

    anchors_above = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        alias = isinstance(event, yaml.AliasEvent)
        if alias and self.anchors_above:
            raise ValueError("an alias inside an anchor")
        anchored = not alias and event.anchor is not None
        self.anchors_above += anchored
        node = super().compose_node(parent, index)
        self.anchors_above -= anchored
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        unique_names([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep)


def parse_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text("utf-8-sig"), Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from None


def parse_csv(path: Path) -> dict[str, Any]:
    reader = csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
    unique_names(list(reader.fieldnames or []))
    return {"rows": list(reader)}


JSON = Format("JSON", lambda path: json.loads(path.read_text("utf-8-sig"), object_pairs_hook=table))
YAML, CSV = Format("YAML", parse_yaml), Format("CSV", parse_csv, 2**27, lax=True)
UniqueNames = Annotated[list[str], AfterValidator(unique_names)]
