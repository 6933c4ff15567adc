"""Files that torch saved, and weights in safetensors, by others: no code in them is executed."""

from __future__ import annotations

import contextlib
import pickletools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError  # what torch raises instead of executing code
from typing import Any, NoReturn

import torch

from gvbsm.data.first_bytes import HEAD, PICKLE, SAFETENSORS, TAR, ZIP, check_folders_above, what_file
from gvbsm.data.folders import is_there
from gvbsm.errors import UserError, unreadable

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # what checkpoints call the state dict inside them
_STATE = "save its state dict with torch.save(model.state_dict(), ...)"
_OLD = {"storages", "tensors", "pickle"}  # members of what torch 0.1 saved
_SAFE = ("collections.OrderedDict", "torch._utils.", "torch.storage.", "builtins.set", "__builtin__.set")
_NAMED = 2  # objects in a message
_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number with which files begin that a torch before 1.6 saved


def load_torch(path: Path, where: str, expected: str, again: str, allowed: Sequence[Any] = ()) -> Any:
    """The content of a file that torch saved; only tensors, Python's plain types and what is `allowed` are read.

    Messages begin with `where`; `expected` is what the file should hold, `again` how to get it if it holds something else.

    Raises:
        UserError: if there is no such file, or it is another one or damaged.
    """
    _check_file(path, where)
    if kind := _other_kind(path):
        raise UserError(f"{where}: expected {expected}, got {kind[0]}; {kind[1] or again}")
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        names = _unsafe_names(path)
        if not names:
            _raise_damaged(path, where, error)
        network = any(name.startswith("torch.nn.modules.") for name in names)
        what = "a whole network" if network else "other objects"
        of = ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)
        remedy = _STATE if network else again
        raise UserError(
            f"{where}: expected {expected}, got {what} ({of}), whose code would have to be executed; {remedy}"
        ) from None
    except Exception as error:  # damaged bytes make torch raise almost anything
        _raise_damaged(path, where, error)


def read_state(path: Path) -> dict[str, Any]:
    """The state dict in a safetensors file or in one that torch saved; only tensors are read, no code is executed.

    The file may be a checkpoint with the state dict as one of its entries (`state_dict`, `model`, ...).

    Raises:
        UserError: if there is no such file, or it has another content.
    """
    where = f"weights {path}"
    if path.suffix == ".safetensors":
        return _read_safetensors(path, where)
    state = load_torch(path, where, "tensors alone", _STATE)
    if not isinstance(state, dict):
        raise UserError(f"{where}: expected a state dict, got {type(state).__name__}; save the network's state dict")
    return next((dict(state[name]) for name in _WRAPPERS if isinstance(state.get(name), dict)), dict(state))


def _read_safetensors(path: Path, where: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    _check_file(path, where)
    file_kind = what_file(path)
    if file_kind and file_kind.what != SAFETENSORS:
        saved_by_torch = file_kind.what in (ZIP, PICKLE)
        remedy = "if torch saved it, call it .pth" if saved_by_torch else "put the right file there"
        raise UserError(f"{where}: expected a safetensors file, got {file_kind.what}; {file_kind.remedy or remedy}")
    try:
        return dict(load_file(path))
    except Exception as error:  # damaged bytes make the reader raise almost anything
        _raise_damaged(path, where, error)


def _check_file(path: Path, where: str) -> None:
    """Raise UserError if a path does not lead to a file."""
    if not is_there(path):
        check_folders_above(path)
        raise UserError(f"{where}: expected a file, got nothing there; put it there, or correct the path")
    if path.is_dir():
        raise UserError(f"{where}: expected a file, got a folder; name the file in it")


def _other_kind(path: Path) -> tuple[str, str] | None:
    """What a file is, and what to do, if torch.save did not write it."""
    file_kind = what_file(path)
    if file_kind is None:
        return None
    if file_kind.what == PICKLE:
        with path.open("rb") as file:
            return None if _MAGIC in file.read(HEAD) else ("a pickle that torch did not write", "")
    if file_kind.what == ZIP:
        return _other_zip(path)
    if file_kind.what == SAFETENSORS:
        return file_kind.what, "give it the ending .safetensors"
    if file_kind.what == TAR:
        return _other_tar(path)
    return file_kind.what, file_kind.remedy


def _other_zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            inner = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return None  # torch says how it is damaged
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "a network in TorchScript", "load it with torch.jit.load and save its state dict"
    if "data.pkl" in inner:
        return None
    if "archive_format" in inner or "models/model.json" in inner:
        return "an exported program (torch.export)", "load it with torch.export.load and save its state dict"
    return "a zip archive that torch did not write", "unpack it and name the file in it"


def _other_tar(path: Path) -> tuple[str, str]:
    import tarfile

    names: set[str] = set()
    with contextlib.suppress(tarfile.TarError, OSError), tarfile.open(path) as archive:
        names = set(archive.getnames())
    if names >= _OLD:
        return "a file of torch 0.1", "load it with a torch of that time and save its state dict anew"
    return TAR, "unpack it and name the file in it"


def _unsafe_names(path: Path) -> list[str]:
    """The functions and classes, sorted, that loading the file would execute; none are executed here."""
    try:
        return sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    except Exception:  # raised for the format before torch 1.6, and in many ways for damaged files
        return sorted(name for name in _names_in_pickles(path) if not name.startswith(_SAFE) and not name.endswith("Storage"))


def _names_in_pickles(path: Path) -> set[str]:
    """What the pickles at the beginning of a file import, read without executing them."""
    names: set[str] = set()
    strings = ["", ""]
    with contextlib.suppress(Exception), path.open("rb") as file:  # behind the pickles are other bytes
        while True:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    names.add(".".join(strings))
                elif isinstance(argument, str):
                    strings = [strings[1], argument]
    return names


def _raise_damaged(path: Path, where: str, error: Exception) -> NoReturn:
    if isinstance(error, PermissionError):
        raise unreadable(path, error) from None
    raise UserError(f"{where}: damaged ({type(error).__name__}); replace the file") from None
