"""Files on disk: written whole or not at all, checked before any work, and values in the types of JSON.

Importing this module takes the standard library alone.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.errors import AutoPeriError, DataError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READABLE = (".parquet", ".csv", ".cif", ".vasp", ".extxyz", ".xyz", ".json")
WRITABLE = (".cif", ".extxyz", ".xyz", ".json", ".vasp", ".parquet")
"""Suffixes of files of crystals."""
_FORMATS = {**{suffix: suffix[1:] for suffix in READABLE}, ".xyz": "extxyz", ".vasp": "poscar"}
TABLES = (".csv", ".json", ".parquet")
"""Suffixes that :func:`write_table` knows."""


def format_of(path: Path) -> str | None:
    """The format that a file name promises: that of its suffix, or ``"poscar"``; None where it promises none."""
    kind = _FORMATS.get(path.suffix.lower())
    return "poscar" if kind is None and path.name.upper().startswith(("POSCAR", "CONTCAR")) else kind


@contextmanager
def explained(path: Path, verb: str) -> Iterator[None]:
    """Turn what goes wrong with a file into a DataError of one line; ``verb`` is ``"read"`` or ``"written"``."""
    try:
        yield
    except AutoPeriError as error:
        if verb == "written" or str(error).startswith(str(path)):
            raise
        raise DataError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except PermissionError as error:
        raise DataError(f"{path} cannot be {verb}: permission denied; choose a place that is yours") from error
    except Exception as error:
        raise DataError(
            f"{path} cannot be {verb}: {one_line(error)}; check the path, and that the content is what the name says"
        ) from error


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write ``content`` (text as UTF-8) so that ``path`` holds either all of it or what it held before; makes missing
    folders.

    Raises:
        DataError: the place cannot be written.
    """
    path = Path(path)
    with explained(path, "written"):
        target = path.resolve()  # a link stays a link
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    return path


def publish(
    files: Mapping[str, bytes], directory: str | os.PathLike[str], *, error: type[AutoPeriError] = DataError
) -> None:
    """Write ``files`` (the last one last) so that a crash leaves no half-written file under a final name.

    A new directory appears whole or not at all; in an existing one the files are replaced one by one.

    Args:
        files: file name to content.
        directory: where they go; made where needed.
        error: class of the error.

    Raises:
        DataError: the directory cannot be written (``error`` where another class is given).
    """
    target = Path(directory).expanduser()
    existed = target.is_dir()
    # Inside an existing directory, which may be a mount of its own; beside a new one, to appear by a single rename.
    # Not tempfile.mkdtemp: its mode 0700 would hide a shared directory from everybody else.
    scratch = (target if existed else target.parent) / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        scratch.mkdir(parents=True)
        for name, data in files.items():
            (scratch / name).write_bytes(data)
        if not existed:
            # Somebody else may have made the directory meanwhile: then go on file by file.
            with suppress(OSError):
                scratch.rename(target)
                return
        target.mkdir(exist_ok=True)
        for name in files:
            (scratch / name).replace(target / name)
    except OSError as cause:
        raise error(
            f"cannot write '{target}': {cause.strerror or cause}; choose a directory you may write to, with space left"
        ) from cause
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_unfinished(*folders: Path) -> None:
    """Remove what a killed process left half written in folders under a temporary name."""
    for folder in folders:
        for path in folder.glob(".*.tmp") if folder.is_dir() else ():
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_table(rows: Sequence[Mapping[str, Any]], out: str | os.PathLike[str]) -> Path:
    """Write rows as ``.csv``, ``.json`` (a list of objects) or ``.parquet``, whole or not at all.

    Raises:
        DataError: the place cannot be written.
    """
    import pandas as pd

    kind = Path(out).suffix.lower()
    if kind == ".json":
        return write_atomically(out, dumps(list(rows)) + "\n")
    frame = pd.DataFrame(list(rows))
    return write_atomically(out, frame.to_csv(index=False) if kind == ".csv" else frame.to_parquet(index=False))


# ---- checks before any work


def check_exists(path: Path) -> None:
    """Refuse a path that leads nowhere.

    Raises:
        DataError: naming it.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")


def check_writable(out: str | os.PathLike[str], *, folder: bool = False) -> None:
    """Refuse a place that cannot be written before any work is done; leaves nothing behind.

    Args:
        out: a file, or a folder, which need not exist yet.
        folder: which of them.

    Raises:
        DataError: the message says why.
    """
    path = Path(out)
    try:
        if folder and path.exists() and not path.is_dir():
            raise DataError(f"{out} is a file; give a folder, or remove it")
        if not folder and path.is_dir():
            raise DataError(f"{out} is a folder; give a file in it")
        place = path if folder else path.absolute().parent
        while not place.exists():
            place = place.absolute().parent
        if not place.is_dir():
            raise DataError(f"{out} cannot be written: {place} is a file; choose another place")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise DataError(
            f"{out} cannot be written: {(error.strerror or str(error)).lower()}; choose a place you may write to"
        ) from None


def crystal_target(out: str | os.PathLike[str], *, n: int) -> str:
    """The format in which ``n`` crystals are written to ``out``, or ``"folder"`` for one CIF each.

    A path that is a folder, ends with a separator or has no suffix means a folder.

    Raises:
        DataError: an unknown suffix, or several crystals for one POSCAR.
    """
    path, kind = Path(out), format_of(Path(out))
    with explained(path, "written"):
        if path.is_dir() or os.fspath(out).endswith(("/", os.sep)) or (kind is None and not path.suffix):
            return "folder"
    if kind is None or (kind != "poscar" and path.suffix.lower() not in WRITABLE):
        raise DataError(
            f"{out} has the suffix {path.suffix!r}; crystals are written as {', '.join(WRITABLE)}, POSCAR, or into a "
            "folder (end it with /)"
        )
    if kind == "poscar" and n > 1:
        raise DataError(f"{out} is a POSCAR, which holds one crystal, not {n}; write .extxyz, or CIFs into a folder")
    return kind


def check_crystal_output(out: str | os.PathLike[str], *, n: int) -> bool:
    """Whether ``out`` means a folder; refused where ``n`` crystals could not be written to it.

    Raises:
        DataError: as :func:`crystal_target`, and a place that cannot be written.
    """
    folder = crystal_target(out, n=n) == "folder"
    check_writable(out, folder=folder)
    return folder


def check_table_output(out: str) -> None:
    """Refuse a table that :func:`write_table` could not write.

    Raises:
        DataError: an unknown suffix, or a place that cannot be written.
    """
    if Path(out).suffix.lower() not in TABLES:
        raise DataError(f"{out} has the suffix {Path(out).suffix!r}; a table is written as {', '.join(TABLES)}")
    check_writable(out)


# ---- JSON


def plain(value: Any, *, finite: bool = False) -> Any:
    """``value`` in the types of JSON: arrays as lists, serialisable objects as dicts, other objects as text.

    Args:
        value: anything; keys of mappings become text.
        finite: turn NaN and infinity, which strict JSON does not know, into None.
    """
    if isinstance(value, float):
        return None if finite and not math.isfinite(value) else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v, finite=finite) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v, finite=finite) for v in value]
    # NumPy and torch: tolist; pymatgen: as_dict; ASE: todict
    for name in ("tolist", "as_dict", "todict"):
        if callable(method := getattr(value, name, None)):
            return plain(method(), finite=finite)
    return str(value)


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON: NaN and infinity become null; the rest as :func:`plain` has it."""
    return json.dumps(plain(value, finite=True), allow_nan=False, indent=indent)
