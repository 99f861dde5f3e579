"""
Real text found on this machine: the descriptions of installed Python packages, by people who wrote them for others.

Where too few are installed, the wheels that Python brings along and the documentation of Debian packages fill up.
"""

from __future__ import annotations

import gzip
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from importlib import metadata
from pathlib import Path

from workers.moderation.models import MAX_TEXT, Document, Format

LEAST = 80  # characters; less is no description
_FORMATS: dict[str, Format] = {"text/markdown": "markdown", "text/x-rst": "rst", "text/plain": "text"}
_DEBIAN_DOCS = Path("/usr/share/doc")
_README = ("README.md", "README.rst", "README", "README.txt", "README.gz", "README.md.gz", "README.Debian", "NEWS.gz")


def installed_descriptions(limit: int = 120) -> list[Document]:
    """
    Collect texts that are on this machine anyway.

    Returns:
        Up to `limit` documents with different ids, in a stable order; those of this environment's packages first.
        Fewer only where neither packages nor documentation are installed.
    """
    documents: dict[str, Document] = {}
    for document in _everything():
        # One version of a package is enough; what is installed twice reads almost alike.
        documents.setdefault(document.title.partition(":")[0].casefold(), document)
        if len(documents) >= limit:
            break
    return list(documents.values())


def _everything() -> Iterator[Document]:
    yield from _distributions([entry for entry in sys.path if entry])
    yield from _distributions(_other_site_packages())
    yield from _bundled_wheels()
    yield from _debian_readmes()
    yield from _debian_copyrights()


def _distributions(path: list[str]) -> Iterator[Document]:
    found: dict[str, Document] = {}
    for distribution in metadata.distributions(path=path):
        # Older packages have PKG-INFO; a half-removed one has a folder but no metadata.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        if document := _described(message_from_string(text)):
            found.setdefault(document.id.casefold(), document)
    yield from (found[key] for key in sorted(found))


def _other_site_packages() -> list[str]:
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    return [
        sysconfig.get_path("purelib", vars=base),
        sysconfig.get_path("platlib", vars=base),
        "/usr/lib/python3/dist-packages",
        "/usr/local/lib/python3/dist-packages",
    ]


def _bundled_wheels() -> Iterator[Document]:
    folders = {Path(path) for path in (*_ensurepip(), "/usr/share/python-wheels")}
    for wheel in sorted(file for folder in folders if folder.is_dir() for file in folder.rglob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            # Vendored packages inside a wheel carry their own metadata one level deeper.
            names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            for name in sorted(names):
                if document := _described(message_from_string(archive.read(name).decode())):
                    yield document


def _ensurepip() -> list[str]:
    try:
        import ensurepip  # noqa: PLC0415  Debian ships Python without it unless python3-venv is there
    except ImportError:
        return []
    return list(ensurepip.__path__)


def _described(described: Message) -> Document | None:
    text = described.get("Description") or described.get_payload()
    if not isinstance(text, str) or len(text) < LEAST:
        return None
    name, version = str(described["Name"]), str(described["Version"])
    content_type = str(described.get("Description-Content-Type", "text/x-rst")).split(";")[0].strip()
    return Document(
        id=f"{name}-{version}"[:200],
        title=f"{name}: {' '.join(str(described.get('Summary', '')).split())}"[:500].rstrip(": "),
        text=text[:MAX_TEXT],
        format=_FORMATS.get(content_type, "text"),
        source=f"Python package {name} {version}",
    )


def _debian_readmes() -> Iterator[Document]:
    for folder in sorted(_DEBIAN_DOCS.glob("*")):
        file = next((folder / name for name in _README if (folder / name).is_file()), None)
        if file and (document := _debian(file, f"{folder.name}-readme", f"{folder.name} (README)")):
            yield document


def _debian_copyrights() -> Iterator[Document]:
    for file in sorted(_DEBIAN_DOCS.glob("*/copyright")):
        name = file.parent.name
        if document := _debian(file, f"{name}-copyright", f"{name} (copyright)"):
            yield document


def _debian(file: Path, identifier: str, title: str) -> Document | None:
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = raw.decode()
    except (OSError, UnicodeDecodeError, EOFError):  # one unreadable file among hundreds is not worth a word
        return None
    form: Format = "markdown" if ".md" in file.name else "rst" if ".rst" in file.name else "text"
    if len(text) < LEAST:
        return None
    return Document(id=identifier[:200], title=title[:500], text=text[:MAX_TEXT], format=form, source=str(file))
