"""Values as one file: a JSON document and, beside it, the arrays of numbers as NumPy writes them.

The file is a zip without compression, so that nothing in it can be larger than the file is: sizes are compared before
memory is taken. ``numpy.load`` reads the arrays of such a file too.
"""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hbsk._documents.kinds import DamagedError, number_type
from hbsk._documents.reading import DocumentReader, parse_json
from hbsk._documents.writing import Writer

_DOCUMENT = "document.json"


class _ArchiveWriter(Writer):
    """Puts numbers aside, one file each."""

    def __init__(self, classes: Mapping[str, type], caller: str) -> None:
        super().__init__(classes, caller)
        self.numbers: list[np.ndarray] = []

    def _of_numbers(self, array: np.ndarray) -> dict[str, Any]:
        self.numbers.append(array)
        return {"dtype": array.dtype.str, "shape": array.shape, "file": f"{len(self.numbers) - 1}.npy"}


class _ArchiveReader(DocumentReader):
    """Takes numbers from the files beside the document."""

    def __init__(self, archive: zipfile.ZipFile, *args: Any) -> None:
        super().__init__(*args)
        self._archive = archive

    def _numbers(self, document: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        name, dtype = document["file"], number_type(document["dtype"])
        content = self._archive.read(name)  # no longer than its file, which is no longer than the archive
        stream = io.BytesIO(content)
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        found, in_columns, found_dtype = read_header[version](stream)
        rest = len(content) - stream.tell()
        if found != shape or found_dtype != dtype or rest != math.prod(shape) * dtype.itemsize:
            raise DamagedError(f"The file is damaged: its array {name!r} is not one of {dtype} and shape {shape}.")
        numbers = np.frombuffer(content, dtype=dtype, offset=stream.tell()).reshape(
            shape, order="F" if in_columns else "C"
        )
        return numbers.astype(dtype.newbyteorder("="))


def write_archive(path: Any, head: Mapping[str, Any], value: Any, classes: Mapping[str, type], caller: str) -> None:
    """Write a value; a file that is there is replaced when the new one is whole.

    Parameters
    ----------
    path : str or path-like
    head : dict
        Plain data that says what the file is.
    value : object
        Of one of the classes.
    classes : dict of str to type
    caller : str
        Who writes, for messages.
    """
    writer = _ArchiveWriter(classes, caller)
    document = {**head, "value": writer.write(value, "them"), "arrays": writer.arrays}
    text = json.dumps(document, allow_nan=False)
    path = Path(path)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_DOCUMENT, text)
            for k, array in enumerate(writer.numbers):
                with archive.open(f"{k}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def read_archive(
    path: Any,
    check_head: Callable[[Mapping[str, Any]], None],
    classes: Mapping[str, type],
    wanted: str,
) -> Any:
    """Read a value; nothing in the file is run, and no memory is taken for what it does not hold.

    Parameters
    ----------
    path : str or path-like
    check_head : callable
        Raises for a file of another kind or version.
    classes : dict of str to type
    wanted : str
        What the file should be, for messages.
    """
    size = Path(path).stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            text = _document_of(archive, size, wanted)
            document = parse_json(text, f"{path} is no file of {wanted}")
            if not isinstance(document, dict):
                raise DamagedError(f"{path} is no file of {wanted}.")
            check_head(document)
            reader = _ArchiveReader(archive, document["arrays"], size, classes)
            return reader.read(document["value"])
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no file of {wanted}, or damaged: {error}.") from error
    except (DamagedError, OSError):
        raise
    except Exception as error:  # NumPy and pandas have their own errors for what they cannot make
        raise DamagedError(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def _document_of(archive: zipfile.ZipFile, size: int, wanted: str) -> str:
    """Return the text of the document, once it is sure that the members are no larger than the file."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if _DOCUMENT not in names:
        raise DamagedError(f"{archive.filename} is no file of {wanted}: it has no {_DOCUMENT!r}.")
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or len(set(names)) < len(names) or sum(member.file_size for member in members) > size:
        raise DamagedError(f"{archive.filename} is damaged: its parts claim more than its {size} bytes.")
    return archive.read(_DOCUMENT).decode("utf-8")
