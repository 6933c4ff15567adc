"""What a file is, in messages: pointers, web pages, archives and networks in the place of weights, images, labels, archives."""

import gzip
import io
import json
import pickle
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from gvbsm.data.download import ensure
from gvbsm.data.files import open_image, read_entries, read_file
from gvbsm.data.first_bytes import what_it_is
from gvbsm.data.fkd import PublishedLabels
from gvbsm.data.torch_files import read_state
from gvbsm.errors import UserError

FALSE_FILES = {  # content -> what it is, what to do
    "LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    ),
    "annex": (b"/annex/objects/MD5E-s12--0123.pth\n", "a git-annex pointer; fetch the file itself with `git annex get`"),
    "page": (b"\n<!DOCTYPE HTML><html><body>Sign in</body></html>", "a web page (HTML); fetch the file itself, not the page"),
    "page with a BOM": (b"\xef\xbb\xbf<html>\n", "a web page (HTML); fetch the file itself, not the page"),
    "page in XHTML": (b'<?xml version="1.0"?>\n<html xmlns="x"></html>', "a web page (HTML); "),
    "XML": (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
        "an XML text that begins with '<Error><Code>AccessDenied</Code></Error>'; fetch the file itself",
    ),
    "JSON": (b'{"message": "Not Found"}', 'a JSON text that begins with \'{"message": "Not Found"}\'; fetch the file itself'),
    "text": (b"404: Not Found", "a text that begins with '404: Not Found'; fetch the file itself"),
    "long text": ("übermäßig ".encode() * 300, "a text that begins with 'übermäßig "),
    "UTF-16": ("Zugriff verweigert".encode("utf-16"), "a text that begins with 'Zugriff verweigert'; "),
    "nothing": (b"", "an empty file; fetch it again"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document; "),
    "RAR": (b"Rar!\x1a\x07\x01\x00", "a RAR archive; "),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive; "),
    "HDF5": (b"\x89HDF\r\n\x1a\n\0\0", "an HDF5 file; "),
}


def line_of(raised: pytest.ExceptionInfo[UserError]) -> str:
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize("kind", FALSE_FILES)
@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.safetensors"])
def test_false_weights(name, kind, tmp_path):
    content, what = FALSE_FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_state(tmp_path / name)
    assert line_of(raised).startswith(f"weights {tmp_path / name}: expected ") and f", got {what}" in line_of(raised)


@pytest.mark.parametrize("kind", FALSE_FILES)
def test_false_images(kind):
    content, what = FALSE_FILES[kind]
    with pytest.raises(UserError) as raised:
        open_image("x.png", content, "RGB")
    assert line_of(raised).startswith(f"x.png: expected an image, got {what}")


@pytest.mark.parametrize("kind", FALSE_FILES)
@pytest.mark.parametrize("name", ["x.zip", "x.ZIP", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz"])
def test_false_archives(name, kind, tmp_path):
    content, what = FALSE_FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        list(read_entries(tmp_path / name))
    archive = "a zip archive" if name.lower() == "x.zip" else "a tar archive"
    assert line_of(raised).startswith(f"{tmp_path / name}: expected {archive}, as its name says, got {what}")


@pytest.mark.parametrize("kind", FALSE_FILES)
def test_false_downloads(kind, tmp_path):
    content, what = FALSE_FILES[kind]
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(UserError) as raised:
        ensure("cifar10", tmp_path / "x.tar.gz", "http://127.0.0.1:9/x.tar.gz", "0" * 32)
    assert f" ({what.partition(';')[0].rstrip()}" in line_of(raised) and "; delete it, or put the file from" in line_of(raised)


@pytest.mark.parametrize("kind", FALSE_FILES)
def test_false_batches_of_labels(kind, tmp_path):
    content, what = FALSE_FILES[kind]
    (tmp_path / "epoch_0").mkdir()
    (tmp_path / "epoch_0" / "batch_0.tar").write_bytes(content)
    with pytest.raises(UserError) as raised:
        assert labels(tmp_path).batch_size
    assert f"batch_0.tar: expected tensors and numbers alone, got {what}" in line_of(raised)


def labels(root: Path) -> PublishedLabels:
    return PublishedLabels(root, torch.zeros(4, dtype=torch.long), torch.arange(4), 8, 2, 42)


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/model.pth", "x")


def write_tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))


class Own:
    """A class of somebody's training script."""


NETWORK = "a whole network (torch.nn.modules.linear.Linear), whose code would have to be executed; save its state dict with"
OTHER_WEIGHTS = {
    "TorchScript": (save_script, "a network in TorchScript; load it with torch.jit.load and save its state dict"),
    "network": (lambda path: torch.save(nn.Linear(2, 2), path), NETWORK),
    "network, before torch 1.6": (lambda path: save_legacy(nn.Linear(2, 2), path), NETWORK),
    "network in a checkpoint": (lambda path: torch.save({"model": nn.Linear(2, 2), "epoch": 3}, path), NETWORK),
    "own objects": (lambda path: torch.save({"args": Own()}, path), "other objects ("),
    "own objects, before torch 1.6": (lambda path: save_legacy({"args": Own()}, path), "other objects ("),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"x": 1})), "a pickle that torch did not write; save its state dict"),
    "zip": (write_zip, "a zip archive that torch did not write; unpack it and name the file in it"),
    "tar": (lambda path: write_tar(path, "model.pth"), "a tar archive; unpack it and name the file in it"),
    "torch 0.1": (
        lambda path: write_tar(path, "storages", "tensors", "pickle", "sys_info"),
        "a file of torch 0.1; load it with",
    ),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip file; "),
    "safetensors": (
        lambda path: path.write_bytes(save({"x": torch.zeros(2)})),
        "a safetensors file; give it the ending .safetensors",
    ),
    "NumPy": (lambda path: path.write_bytes(npy()), "a NumPy array; "),
    "a folder": (Path.mkdir, "a folder; name the file in it"),
    "nothing": (lambda path: None, "nothing there; put it there, or correct the path"),
}


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", OTHER_WEIGHTS)
def test_other_files_than_weights(kind, tmp_path, recwarn):
    write, what = OTHER_WEIGHTS[kind]
    write(tmp_path / "x.pth")
    with pytest.raises(UserError) as raised:
        read_state(tmp_path / "x.pth")
    assert f"x.pth: expected {'a file' if kind in ('a folder', 'nothing') else 'tensors alone'}, got {what}" in line_of(raised)
    assert not [warning for warning in recwarn if "torch" in str(warning.message)], "torch has tried to read it"


@pytest.mark.parametrize("write", [torch.save, save_legacy])
def test_weights_that_torch_saved_at_any_time_are_read(write, tmp_path):
    write({"state_dict": {"x": torch.arange(3)}, "epoch": 1}, tmp_path / "x.pth")
    assert torch.equal(read_state(tmp_path / "x.pth")["x"], torch.arange(3))


@pytest.mark.parametrize("write", [torch.save, save_legacy])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_part_of_such_a_file_is_damaged(part, write, tmp_path):
    write({"x": torch.arange(3000)}, tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=r"x\.pth: damaged \(\w+\); replace the file"):
        read_state(tmp_path / "x.pth")


@pytest.mark.parametrize("write", [lambda path: torch.save({}, path), save_script, lambda path: save_legacy({}, path)])
def test_what_torch_saved_is_no_safetensors_file(write, tmp_path):
    write(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"expected a safetensors file, got a (zip archive|pickle); if torch saved it, call it"):
        read_state(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("name", "kind"), [("x.tar", "zip"), ("x.tar.gz", "zip"), ("x.zip", "tar"), ("x.zip", "gztar")])
def test_an_archive_with_the_name_of_another(name, kind, tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    Path(shutil.make_archive(str(tmp_path / "made"), kind, tmp_path, "set")).rename(tmp_path / name)
    with pytest.raises(UserError, match=r"as its name says, got a(.*zip archive| tar archive| gzip file); give it the ending"):
        list(read_entries(tmp_path / name))


def test_an_archive_without_an_ending(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos", "w") as archive:
        archive.writestr("train/a/1.png", "x")
    with pytest.raises(UserError, match=r"photos: expected a folder or an archive .*, got a zip archive; give it such a name"):
        list(read_entries(tmp_path / "photos"))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_the_head_of_an_image_is_an_image_that_is_damaged(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    found = what_it_is(buffer.getvalue())
    assert found and found.what.upper() == f"A {kind} IMAGE"
    with pytest.raises(UserError, match=rf"^x: expected an image, got (?!no format|a {kind} image;)"):
        open_image("x", buffer.getvalue()[:16], "RGB")


def test_noise_is_nothing_in_particular():
    draw = np.random.default_rng(0)
    named = [found for _ in range(2000) if (found := what_it_is(draw.bytes(300)))]
    assert len(named) < 10, named


def test_the_beginning_of_a_text_may_end_within_a_letter():
    assert [what_it_is("éé".encode()[:size]) is not None for size in (1, 2, 3, 4)] == [True] * 4


PLACES = {
    "labels": lambda path: labels(path).batch_size,
    "weights": lambda path: read_state(path / "squeeze" / "x.pth"),
    "images": lambda path: list(read_entries(path / "train")),
}


@pytest.mark.parametrize("use", PLACES)
@pytest.mark.parametrize("name", ["fkd.zip", "fkd.tar.gz", "fkd.tar", "fkd"])
def test_an_archive_where_a_folder_is_expected(name, use, tmp_path):
    kind = {"fkd.tar.gz": "gztar", "fkd.tar": "tar"}.get(name, "zip")
    (tmp_path / "epoch_0").mkdir()
    Path(shutil.make_archive(str(tmp_path / "made"), kind, tmp_path, "epoch_0")).rename(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: expected a folder, got a (zip|tar|gzip) \w+; unpack it$"):
        PLACES[use](tmp_path / name)


def test_a_folder_where_a_file_is_expected(tmp_path):
    with pytest.raises(UserError, match=r": expected a file, got a folder; name the file in it"):
        read_file(tmp_path)
    (tmp_path / "epoch_0" / "batch_0.tar").mkdir(parents=True)
    with pytest.raises(UserError, match=r"batch_0\.tar: expected a file, got a folder; name the file in it"):
        assert labels(tmp_path).batch_size


def test_messages_of_json_are_json() -> None:
    """The quotation is cut and on one line."""
    found = what_it_is(json.dumps({"errors": ["x" * 100]}, indent=1).encode())
    assert found and found.what.startswith("a JSON text that begins with ") and len(found.what) < 90
