"""Find and read the tables that people bring: CSV, TSV, JSON and Parquet; as files, folders, archives and URLs.

No row is merged with another, and none is lost: where the text of a file can be read in two ways, it is refused.
"""

import codecs
import csv
import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from tweets.errors import UserError, one_line, rows_at

Quoting = Literal["auto", "quoted", "plain"]
Kind = Literal["csv", "tsv", "json", "parquet"]

KINDS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
ARCHIVE = ".zip"
NAMES = f"{', '.join(KINDS)}; each also with {', '.join(COMPRESSIONS)}, or alone in a {ARCHIVE}"
SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}  # as -S takes them
TAB = "tab"
IGNORED = re.compile(r"(?:^|/)[._][^/]*/?$|[.](?:md|dvc)$")  # hidden files, and those about the folder
SIGNATURES = {
    b"\x1f\x8b": "compressed with gzip (.gz)",
    b"BZh": "compressed with bzip2 (.bz2)",
    b"\xfd7zXZ": "compressed with xz (.xz)",
    b"PK\x03\x04": "a ZIP archive (.zip) or an Excel file, which has to be saved as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel file, which has to be saved as CSV",
    b"PAR1": "Parquet (.parquet)",
}
CHUNK = 50_000  # rows that are turned into columns at a time
NUMBER = r"[-+]?\d+(?:[.,]\d+)*"
FEW = 100  # values of a column that tell a row from another line
LONGEST = 1 << 24  # characters of a field; a quote that is never closed must not swallow a file of gigabytes


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a CSV or TSV file is written.

    `quoting`: in a `quoted` file, quotes around a field hide separators and line breaks in it, and a doubled quote
    stands for one (RFC 4180). In a `plain` file each line is a row, and quotes are letters like others. `auto`: CSV is
    quoted; TSV is plain, unless its header is in quotes.
    """

    encoding: str = "utf-8"
    separator: str | None = None  # None: a tab for TSV, else a comma
    quoting: Quoting = "auto"
    names: list[str] | None = None  # of the columns; None: the first line has them
    setting: str | None = None  # how the user sets the above, such as `fetch.csv.{}={}`

    def hint(self, name: str, value: str) -> str:
        """Return what to type, or nothing where the user has no such setting."""
        return f": {self.setting.format(name, value)}" if self.setting else ""


class Table(NamedTuple):
    """The rows of a file, as strings but for Parquet."""

    frame: pd.DataFrame
    lines: npt.NDArray[np.int64] | None  # (N,) the line that each row begins in, from 1; None for Parquet
    blank_lines: int  # lines without anything, which are left out where there are several columns
    nested: frozenset[str] = frozenset()  # the columns that hold lists or objects

    def at(self, wrong: pd.Series) -> str:
        """Return where the marked rows are."""
        numbers = np.flatnonzero(wrong)
        return rows_at(numbers) if self.lines is None else rows_at(self.lines[numbers] - 1, "line")

    def check_plain(self, column: str | None, file: str) -> None:
        """Raise UserError for a column with lists or objects where words are needed."""
        if column in self.nested:
            raise UserError(
                f"{file}: column {column!r} holds lists or objects; it needs a word or a number in each row"
            )


def kind(name: str) -> Kind | None:
    """Return what a file is by its name, None for no table; upper case, compression and a URL's query do not matter."""
    stem = without_query(name).lower()
    stem = next((stem.removesuffix(end) for end in COMPRESSIONS if stem.endswith(end)), stem)
    if stem.endswith(ARCHIVE):
        return kind(stem.removesuffix(ARCHIVE)) or "csv"  # what is in it decides
    return next((found for end, found in KINDS.items() if stem.endswith(end)), None)


def without_query(name: str) -> str:
    """Return a URL without its query and fragment; a local name may hold their signs."""
    is_url = "://" in name and not name.startswith("file://")
    return re.split(r"[?#]", name)[0] if is_url else name


def find(path: str, named: str, folders: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Return the tables at `path`, which `named` gave: itself, or those in the folder that it is, in order.

    Those in its subfolders named in `folders` count as in it. What else is in the folder comes second. Raises UserError
    where there is no table.
    """
    try:
        fs, root = fsspec.core.url_to_fs(path)
        # Asked in this order because a file with links in it is a folder to fsspec's HTTP.
        is_folder = not (kind(root) and fs.isfile(root)) and fs.isdir(root)
        paths = sorted(_in_folder(fs, root, {*folders})) if is_folder else [root] if fs.exists(root) else None
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"{named} = {path}: cannot be read: {one_line(error)[:200]}") from None
    if paths is None:
        raise UserError(f"{named} = {path}: no such file or folder")
    files = [file for file in paths if kind(file) and not file.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not files:
        raise UserError(f"{named} = {path}: no table; the name of one ends in {NAMES}")
    rest = [file for file in paths if file not in files and not IGNORED.search(file)]
    return [fs.unstrip_protocol(file) for file in files], rest


def _in_folder(fs: Any, root: str, folders: set[str]) -> Iterator[str]:
    for entry in fs.ls(root, detail=True):
        if entry["type"] != "directory" and not (entry.get("islink") and fs.isdir(entry["name"])):
            yield entry["name"]
        elif entry["name"].rstrip("/").rsplit("/", 1)[-1].lower() in folders:
            yield from _in_folder(fs, entry["name"], folders)
        else:
            yield f"{entry['name'].rstrip('/')}/"


def read(file: str, dialect: Dialect, *, keep_blank: bool = False, label: str | None = None) -> Table:
    """Return the table in a file. With `keep_blank`, a line without anything is a row of empty cells.

    `label` is a column with few values, which help to tell rows from lines of a text. Raises UserError when the file is
    empty, binary, in another encoding, ragged, or has quotes that do not match.
    """
    shown = file.removeprefix("file://").removeprefix(f"{Path.cwd()}/")
    try:
        with _open(file) as (stream, name):
            what = kind(name)
            if what == "parquet":
                frame = _parquet(stream)
                return Table(
                    frame, None, 0, frozenset(str(name) for name in frame if any(map(_is_nested, frame[name])))
                )
            encoding = dialect.encoding
            if codecs.lookup(encoding).name == "utf-8":
                encoding = "utf-8-sig"  # which takes a byte order mark away
            with io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
                if what == "json":
                    return _json(text, shown)
                return _delimited(text, shown, dialect, is_tsv=what == "tsv", keep_blank=keep_blank, label=label)
    except UnicodeDecodeError:
        if packed := _packed(file):
            raise UserError(f"{shown}: is {packed}, and not what its name says; give it the name for that") from None
        line, byte, other = _undecodable(file, dialect.encoding)
        hint = dialect.hint("encoding", other).replace(": ", ", or set ", 1)
        raise UserError(f"{shown}: line {line}, byte {byte} is not {dialect.encoding}: save it as that{hint}") from None
    except UserError:
        raise
    except (OSError, LookupError, ValueError, ImportError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{shown}: cannot be read as a table: {one_line(error)[:200]}") from None


def read_one(path: str, named: str, dialect: Dialect) -> Table:
    """Return the one table at `path`, with its blank lines. Raises UserError as `read` does, and for several tables."""
    [file, *others], _ = find(path, named)
    if others:
        raise UserError(f"{path}: a folder of {len(others) + 1} tables; it needs one file")
    return read(file, dialect, keep_blank=True)


def columns_of(frame: pd.DataFrame) -> str:
    """Return which columns a table has, for a message that one is missing."""
    return f"it has: {', '.join(repr(str(name)[:60]) for name in frame.columns[:12])}"


@contextmanager
def _open(file: str) -> Iterator[tuple[IO[bytes], str]]:
    """Yield the decompressed bytes of a table and its name. An archive must hold one table, which is then read."""
    name = without_query(file).lower()
    compression = next((how for end, how in COMPRESSIONS.items() if name.endswith(end)), None)
    with fsspec.open(file, "rb", compression=compression) as stream:
        if not name.endswith(ARCHIVE):
            yield stream, name
            return
        with zipfile.ZipFile(stream) as archive:
            members = [
                member
                for member in archive.namelist()
                if kind(member) and not member.rsplit("/", 1)[-1].startswith((".", "_"))
            ]
            if len(members) != 1:
                listed = f"holds {', '.join(members[:6])}" if members else "holds no table"
                raise UserError(f"{file}: {listed}; it needs one table: unpack it, and name the file or the folder")
            with archive.open(members[0]) as inner:
                yield inner, members[0]


def _packed(file: str) -> str | None:
    """Return what a file is by its first bytes, None for text."""
    with _open(file) as (stream, _):
        begin = stream.read(8)
    return next((what for signature, what in SIGNATURES.items() if begin.startswith(signature)), None)


def _undecodable(file: str, encoding: str) -> tuple[int, int, str]:
    """Return the first line in another encoding, from 1, its first wrong byte, from 0, and what it may be in."""
    place, other = 0, "latin-1"
    with _open(file) as (stream, _):
        for number, line in enumerate(stream, 1):
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and number == 1:
                other = "utf-16"
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return number, place + error.start, other
            place += len(line)
    return number, place, other  # of an encoding whose line breaks have several bytes


def _parquet(stream: IO[bytes]) -> pd.DataFrame:
    """Return a table with its types, whole numbers beside missing cells too, and bytes as the UTF-8 that they are."""
    frame = pd.read_parquet(stream, dtype_backend="numpy_nullable").reset_index(drop=True)
    for name in frame.columns:
        if pd.api.types.infer_dtype(frame[name]) == "bytes":
            try:
                cells = [None if pd.isna(cell) else cell.decode() for cell in frame[name]]
            except UnicodeDecodeError:
                raise ValueError(f"column {name!r} has bytes that are not UTF-8") from None
            frame[name] = pd.array(cells, dtype="str")
    return frame


def _delimited(
    text: IO[str], file: str, dialect: Dialect, *, is_tsv: bool, keep_blank: bool, label: str | None
) -> Table:
    above = 0  # blank lines
    while (first := next(text, None)) is not None and not first.strip():
        above += 1
    if first is None:
        raise UserError(f"{file}: is empty; it needs a line with the names of the columns, and rows")
    if re.fullmatch(r"sep=.\s*", first, re.IGNORECASE):
        where = f" in {dialect.setting.format('separator', '').rstrip(' =')}" if dialect.setting else ""
        raise UserError(
            f"{file}: line {above + 1} tells Excel the separator, {first[4]!r}: delete that line, and name it{where}"
        )
    is_quoted = dialect.quoting == "quoted" or (dialect.quoting == "auto" and (not is_tsv or first.startswith('"')))
    separator = "\t" if dialect.separator == TAB else dialect.separator or ("\t" if is_tsv else ",")
    csv.field_size_limit(LONGEST)
    quoting: Any = csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE
    record: list[str] = []  # the lines of a row
    reader = csv.reader(_noted(chain([first], text), record), delimiter=separator, quoting=quoting, strict=True)
    rows = _numbered(reader, file, dialect, above, is_quoted=is_quoted)
    names = dialect.names
    if names is None:
        names = _header(next(rows)[1], file)
        record.clear()
    frames: list[pd.DataFrame] = []
    chunk: list[list[str]] = []
    lines: list[int] = []
    blank_lines = above
    suspects: list[Record] = []
    for line, row in rows:
        if row:
            _check(file, dialect, line, row, len(names), separator, is_quoted=is_quoted)
            if len(record) > 1 and dialect.quoting == "auto":
                fields = [physical.rstrip("\r\n").split(separator) for physical in record if physical.strip()]
                if all(len(each) == len(names) for each in fields):
                    suspects.append(Record(len(lines), line, fields))
        else:
            blank_lines += 1
            if not keep_blank and len(names) > 1:
                record.clear()
                continue
        record.clear()
        lines.append(line)
        chunk.append(row or [""] * len(names))
        if len(chunk) == CHUNK:
            frames.append(_columns(chunk, names))
            chunk = []
    frames.append(_columns(chunk, names))
    frame = pd.concat(frames, ignore_index=True)
    if suspects and len(names) > 1:
        _check_records(file, dialect, frame, suspects, separator, label)
    return Table(frame, np.array(lines, np.int64), blank_lines)


class Record(NamedTuple):
    """A row of several lines, each of which has as many fields as there are columns."""

    number: int  # of the row, from 0
    line: int  # that it begins in, from 1
    fields: list[list[str]]  # of each line, as if it had no quotes


def _noted(lines: Iterable[str], record: list[str]) -> Iterator[str]:
    """Yield the lines, and note each in `record`."""
    for line in lines:
        record.append(line)
        yield line


def _check_records(
    file: str, dialect: Dialect, frame: pd.DataFrame, suspects: list[Record], separator: str, label: str | None
) -> None:
    """Raise UserError for a row whose every line looks like a row: its quotes were not meant to hide line breaks.

    A line does where each of its fields is a number in a column of numbers, and one of the known values in a column of
    few. Without such columns nothing is known of what a row looks like.
    """
    others = frame.drop(index=[record.number for record in suspects])
    numbers, known = set(), {}
    for place, name in enumerate(frame.columns):
        values = others[name].dropna()
        if len(values) and values.str.fullmatch(NUMBER).all():
            numbers.add(place)
        elif name == label or values.nunique() <= min(FEW, len(values) / 10):
            known[place] = set(frame[name].dropna())
    if not numbers and not known:
        return
    for record in suspects:
        rows = [[field.strip('"') for field in fields] for fields in record.fields]
        if all(re.fullmatch(NUMBER, row[place]) for row in rows for place in numbers) and all(
            row[place] in values for row in rows for place, values in known.items()
        ):
            example = separator.join(record.fields[0])[:50]
            raise UserError(
                f"{file}: the quotes in line {record.line} open a field that holds whole rows, from {example!r} on;"
                f" close them, or, if quotes are part of the texts{dialect.hint('quoting', 'plain')}. If the field is"
                f" as it should be{dialect.hint('quoting', 'quoted')}"
            )


def _numbered(
    reader: Any, file: str, dialect: Dialect, above: int, *, is_quoted: bool
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line that it begins in, where `above` lines come before the reader's first.

    Raises UserError where quotes do not match.
    """
    line = 1 + above
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1 + above
    except csv.Error as error:
        if not is_quoted:
            raise UserError(f"{file}: line {line}: {one_line(error)}") from None
        last = reader.line_num + above
        lines = f"line {line}" if last <= line else f"lines {line} to {last}"
        raise UserError(
            f"{file}: the quotes in {lines} do not match: a field in quotes ends with one, and doubles those in it. If"
            f" quotes are part of the texts{dialect.hint('quoting', 'plain')}"
        ) from None


def _header(row: list[str], file: str) -> list[str]:
    given = set(row)
    names = [name or next(n for n in _names_for(number) if n not in given) for number, name in enumerate(row)]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise UserError(f"{file}: column {twice!r} is in the header twice; rename one")
    return names


def _names_for(number: int) -> Iterator[str]:
    """Yield names for a column without one: pandas' own first."""
    yield f"Unnamed: {number}"
    yield from (f"Unnamed: {number}.{again}" for again in count(1))


def _columns(rows: list[list[str]], names: list[str]) -> pd.DataFrame:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    cells = (pd.array([cell or None for cell in column], dtype="str") for column in columns)
    return pd.DataFrame(dict(zip(names, cells, strict=True)))


def _check(
    file: str, dialect: Dialect, line: int, row: list[str], columns: int, separator: str, *, is_quoted: bool
) -> None:
    """Raise UserError for a row with more or fewer fields than columns, and for quotes that may not be letters."""
    if len(row) != columns:
        whose = f"{len(dialect.names)} columns are named" if dialect.names else f"the header has {columns}"
        found = f"{file}: line {line} has {len(row)} field{'s' * (len(row) > 1)}, {whose}"
        if columns == 1 and not dialect.names:
            raise UserError(f"{found}; delete what is above the names of the columns, or put quotes around the text")
        if is_quoted:
            what = repr(separator) if len(row) > columns else "a line break"
            raise UserError(f"{found}; put quotes around a text that holds {what}")
        if '"' in "".join(row):
            hint = dialect.hint("quoting", "quoted")
            raise UserError(f"{found}; if quotes hide separators or line breaks in this file{hint}")
        raise UserError(f"{found}; a text in a file without quotes holds no separator and no line break")
    if not is_quoted and dialect.quoting == "auto" and any(map(_has_doubled_quotes, row)):
        raise UserError(
            f"{file}: line {line} has a field in quotes, with doubled quotes in it: if the quotes are not part of the"
            f" text{dialect.hint('quoting', 'quoted')}; if they are{dialect.hint('quoting', 'plain')}"
        )


def _has_doubled_quotes(field: str) -> bool:
    """Tell whether a field is in quotes, and its quotes are doubled: as programs write a text with quotes in it."""
    inner = field[1:-1]
    return len(field) > 2 and field[0] == field[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")


def _json(text: IO[str], file: str) -> Table:
    """Return the rows of a file with an object per line, or with one list of objects."""
    content = text.read()
    lines: list[int] | None = None
    rows: list[Any] = []
    try:
        if content.lstrip().startswith("["):
            rows = json.loads(content, object_pairs_hook=_object)
        else:
            numbered = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
            lines = [number for number, _ in numbered]
            rows.extend(json.loads(line, object_pairs_hook=_object) for _, line in numbered)
    except ValueError as error:  # also numbers of more digits than Python reads
        where = "" if lines is None else f"line {lines[len(rows)]}: "
        raise UserError(f"{file}: {where}not JSON: {error}") from None
    if not rows:
        raise UserError(f"{file}: is empty; it needs a line of JSON for each row, or a list of objects")
    wrong = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        where = f"row {wrong + 1}" if lines is None else f"line {lines[wrong]}"
        raise UserError(f"{file}: {where} is no JSON object; each row needs one, with the columns as its keys")
    if (
        lines is not None
        and len(rows) == 1
        and len(rows[0]) > 1
        and all(isinstance(each, dict) for each in rows[0].values())
    ):
        raise UserError(f"{file}: is one object of columns; write an object per row: orient='records', lines=True")
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    nested = frozenset(name for name in names if any(_is_nested(row.get(name)) for row in rows))
    columns = {name: [_cell(row.get(name)) for row in rows] for name in names}
    try:
        frame = pd.DataFrame({name: pd.array(cells, dtype="str") for name, cells in columns.items()})
    except UnicodeEncodeError:
        number = next(number for number, row in enumerate(rows) if _has_lone_surrogate(row))
        where = f"row {number + 1}" if lines is None else f"line {lines[number]}"
        raise UserError(f"{file}: {where} has a lone surrogate (\\ud800 to \\udfff); remove it") from None
    return Table(frame, None if lines is None else np.array(lines, np.int64), 0, nested)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice in an object")
    return content


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict | np.ndarray)


def _has_lone_surrogate(row: dict[str, Any]) -> bool:
    return any("\ud800" <= sign <= "\udfff" for sign in json.dumps(row, ensure_ascii=False))


def _cell(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
