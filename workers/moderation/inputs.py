"""Documents from a folder of text files or a JSONL file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator import InvalidInput
from workers.moderation.models import MAX_TEXT, Document, Format

FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
}
MAX_DOCUMENTS = 100_000
MAX_BYTES = 4 * MAX_TEXT  # of a file in a folder; UTF-8 takes up to four a character


class _Line(BaseModel):
    """A line of a JSONL file; what else it holds is not ours and is passed over."""

    model_config = ConfigDict(extra="ignore")

    id: str | int | None = None
    title: str = ""
    text: str
    format: Format = "text"
    source: str | None = None
    language: str | None = None


def load_documents(path: Path, *, out: Path | None = None) -> list[Document]:
    """
    Read documents.

    Args:
        path: a folder, searched with its sub-folders for .txt, .md, .rst and .html; a file of one of these; or a
            .jsonl file with one object a line: `text`, and if wanted `id`, `title`, `source`, `format`, `language`.
        out: folder that receives the published records.

    Returns:
        The documents in the order of their names or lines; at least one.

    Raises:
        InvalidInput: nothing is there, or something cannot be read; the message names file and line.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and _wanted(file.relative_to(path)))
        found: Iterator[Document] = (_from_file(file, str(file.relative_to(path))) for file in files)
        nothing = f"{path}: no {', '.join(FORMATS)} files in it"
    elif path.suffix in {".jsonl", ".ndjson"} and path.is_file():
        found = _from_lines(path)
        nothing = f"{path}: it is empty; it takes one JSON object a line, with `text`"
    elif path.suffix in FORMATS and path.is_file():
        found = (_from_file(path, path.name) for _ in range(1))
        nothing = ""
    elif path.exists():
        raise InvalidInput(f"{path}: give a folder, a .jsonl file or one of {', '.join(FORMATS)}")
    else:
        raise InvalidInput(f"{path}: there is no such file or folder; check the path")
    resolved = None if out is None else str(out.resolve())
    documents: dict[str, Document] = {}
    for document in found:
        if document.id in documents:
            raise InvalidInput(f"{document.source}: the id {document.id!r} was there before; make ids unique")
        if len(documents) == MAX_DOCUMENTS:
            raise InvalidInput(f"{path}: more than {MAX_DOCUMENTS:,} documents; split it")
        documents[document.id] = document.model_copy(update={"out": resolved})
    if not documents:
        raise InvalidInput(nothing)
    return list(documents.values())


def _wanted(relative: Path) -> bool:
    return relative.suffix in FORMATS and not any(part.startswith(".") for part in relative.parts)


def _from_file(file: Path, name: str) -> Document:
    try:
        if (size := file.stat().st_size) > MAX_BYTES:
            raise InvalidInput(f"{file}: {size:,} bytes, the limit is {MAX_BYTES:,}; split it")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: not UTF-8 at byte {error.start:,}; convert it, for example with iconv") from None
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from None
    return _document(
        str(file), id=name[-200:], title=file.stem, text=text, source=str(file), format=FORMATS[file.suffix]
    )


def _from_lines(file: Path) -> Iterator[Document]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _from_line(line, f"{file}:{number}", number)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: not UTF-8 ({error.reason}); convert it, for example with iconv") from None
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from None


def _from_line(line: str, where: str, number: int) -> Document:
    try:
        given = _Line.model_validate_json(line)
    except ValidationError as error:
        raise InvalidInput(f"{where}: {_first(error)}") from None
    return _document(
        where,
        id=str(number if given.id is None else given.id),
        title=given.title,
        text=given.text,
        source=where if given.source is None else given.source,
        format=given.format,
        language=given.language,
    )


def _document(where: str, **fields: str | None) -> Document:
    try:
        return Document.model_validate(fields)
    except ValidationError as error:
        raise InvalidInput(f"{where}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    item = error.errors()[0]
    name = ".".join(str(part) for part in item["loc"])
    return f"{name}: {item['msg']}" if name else item["msg"]
