"""Archives, odd image files, and Tiny-ImageNet from a zip of the official layout."""

import gzip
import hashlib
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from gvbsm.config.sources import ImageFolder, ImageNet, TinyImageNet
from gvbsm.data import archives, imagefolder, imagenet, tiny_imagenet
from gvbsm.data.distilled import list_images, pack
from gvbsm.data.files import open_image, read_entries, square, to_tensor
from gvbsm.data.folders import count_images, stamp
from gvbsm.data.raw import Form
from gvbsm.errors import UserError
from gvbsm.pipeline.prepare import PrepareSpec
from gvbsm.stages import prepare
from gvbsm.store.files import load_tensors
from gvbsm.store.job import Job

COLOUR = Form(image_size=8, channels=3, resize=8, storage="packed")


def png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    f"top/{split}/{name}/{i}.png": png(10 * i + len(name))
    for split in ("train", "valid")
    for name in ("a", "bb")
    for i in range(2)
}


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:xz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def read(path: Path):
    return imagefolder.read(ImageFolder(kind="imagefolder", path=path.name), COLOUR, path.parent)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz"])
def test_an_archive_is_read_as_its_folder_is(name, tmp_path):
    for file, content in FILES.items():
        (tmp_path / "folder" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / file).write_bytes(content)
    backwards = dict(reversed(FILES.items()))
    if name.endswith("zip"):
        write_zip(tmp_path / name, backwards)
    else:
        write_tar(tmp_path / name, backwards, {"x.tar": "w", "x.tar.xz": "w:xz"}.get(name, "w:gz"))
    folder, archive = read(tmp_path / "folder"), read(tmp_path / name)
    assert folder.class_names == archive.class_names == ["a", "bb"]
    assert torch.equal(folder.train_images, archive.train_images)
    assert torch.equal(folder.test_labels, archive.test_labels)
    assert folder.train_images[:, 0, 0, 0].tolist() == [1, 11, 2, 12]


NAMES = [
    "../out/train/a/x.png",
    "train/a/../../../x.png",
    "/train/a/x.png",
    "//host/train/a/x.png",
    "C:/train/a/x.png",
    "c:x.png",
    "..\\x.png",
    "train\\a\\..\\..\\..\\x.png",
    "train/a/x\n.png",
    "train/a/\x1b[31mx.png",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_names_outside_the_archive_and_odd_ones_are_refused(name, write, tmp_path):
    path = tmp_path / ("x.zip" if write is write_zip else "x.tar.xz")
    write(path, FILES | {name: png(1)})
    with pytest.raises(UserError, match="expected names below the archive's own folder") as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 1 and repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["train\\a\\x.png", "train/a\\x.png", "x\\"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_backslashes_between_folders_are_called_that(name, write, tmp_path):
    """Python would take the whole for the name of a file."""
    path = tmp_path / ("x.zip" if write is write_zip else "x.tar.xz")
    write(path, FILES | {name: png(1)})
    with pytest.raises(
        UserError, match="expected / between folders, got backslashes, as some programs for Windows write"
    ) as caught:
        read(path)
    assert repr(name) in str(caught.value)


def test_names_that_are_cut_at_nul_are_refused(tmp_path):
    """zipfile reads `x.png\\0.txt` as `x.png`, and a tar's extended header can hold it too."""
    write_zip(tmp_path / "x.zip", {"train/a/x.png0.txt": png(1)})
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace(b"x.png0.txt", b"x.png\0.txt"))
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("train/a/x.png")
        member.pax_headers = {"path": "train/a/x.png\0.txt"}
        archive.addfile(member)
    for name in ("x.zip", "x.tar"):
        with pytest.raises(UserError, match=r"'train/a/x\.png\\x00\.txt': expected names below"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["tr ain/a b/$(touch x).png", "train/it's/`x`.png", "train/-rf/a;b.png", "train/ä/日本.png"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_other_names_are_only_names(name, write, tmp_path):
    path = tmp_path / ("x.zip" if write is write_zip else "x.tar.xz")
    write(path, {name: png(1)})
    assert [(str(entry.path), entry.read()) for entry in read_entries(path)] == [(name, png(1))]


KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("train/a/x.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match="expected plain files, got a link or device"):
        read(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(kind, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        member = zipfile.ZipInfo("train/a/x.png")
        member.external_attr = (kind | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match="expected plain files, got a link or device"):
        read(tmp_path / "x.zip")


def bomb(path: Path, count: int = 1) -> None:
    """An archive of `count` files, each a MiB of zeros, which compress a thousand times."""
    files = {f"train/a/{i}.png": bytes(2**20) for i in range(count)}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        write_tar(path, files, "w:gz" if path.suffix == ".gz" else "w:xz")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.xz"])
def test_a_decompression_bomb_is_refused_before_it_is_read(name, tmp_path, monkeypatch):
    bomb(tmp_path / name, 3)
    assert sum(len(entry.read()) for entry in read_entries(tmp_path / name)) == 3 * 2**20, "below the floor it is harmless"
    monkeypatch.setattr(archives, "_FLOOR", 2**19)
    with pytest.raises(
        UserError, match=r"train/a/0\.png: expected at most 200 times the packed size \(\d+ bytes\), got 1\d+ bytes"
    ):
        next(read_entries(tmp_path / name))


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_many_small_files_together_are_a_bomb_too(name, tmp_path, monkeypatch):
    bomb(tmp_path / name, 5)
    monkeypatch.setattr(archives, "_FLOOR", 3 * 2**20)
    entries = read_entries(tmp_path / name)
    with pytest.raises(UserError, match="as of a decompression bomb; unpack it yourself if you trust it"):
        list(entries)


def test_images_that_compress_well_are_no_bomb(tmp_path, monkeypatch):
    """Even without a floor: black bitmaps among noise, and an archive that is not compressed."""
    monkeypatch.setattr(archives, "_FLOOR", 0)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = [encode(Image.fromarray(pixels), "BMP") for pixels in (noise, np.zeros_like(noise), noise[::-1])]
    write_tar(tmp_path / "x.tar.xz", {f"{i}.bmp": image for i, image in enumerate(images)})
    write_tar(tmp_path / "x.tar", {f"{i}.bmp": image for i, image in enumerate(images)}, "w")
    assert [len(list(read_entries(tmp_path / name))) for name in ("x.tar.xz", "x.tar")] == [3, 3]


def test_a_file_larger_than_any_image_is_refused_by_its_header(tmp_path):
    member = tarfile.TarInfo("train/a/x.png")
    member.size = 2**40
    (tmp_path / "x.tar").write_bytes(member.tobuf() + bytes(1024))
    with pytest.raises(UserError, match=r"train/a/x\.png: expected at most 536870912 bytes in a file, got 1099511627776"):
        read(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("kind", "size"), [(tarfile.XHDTYPE, 2**33), (tarfile.GNUTYPE_LONGNAME, 2**33), (tarfile.REGTYPE, -512)]
)
def test_a_header_that_asks_for_memory_or_time_is_refused(kind, size, tmp_path):
    member = tarfile.TarInfo("train/a/x.png")
    member.type, member.size = kind, size
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(UserError, match=rf"damaged archive: a header of {size} bytes"):
        read(tmp_path / "x.tar")


@pytest.mark.parametrize("size", [10, 2**20 - 1, 2**20 + 1, 2**27])
def test_a_zip_that_lies_about_a_size_is_damaged(size, tmp_path):
    bomb(tmp_path / "x.zip")
    content = (tmp_path / "x.zip").read_bytes()
    central = content.rindex(b"PK\x01\x02")
    lie = content[: central + 24] + struct.pack("<I", size) + content[central + 28 :]
    (tmp_path / "x.zip").write_bytes(lie)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"damaged archive: .*; fetch it again"):
        read(tmp_path / "x.zip")
    assert size > 10 or tracemalloc.get_traced_memory()[1] < 2**19, "it was unpacked whole"
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_without_a_limit_are_refused(kind, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", kind) as archive:
        archive.writestr("train/a/x.png", png(1))
    with pytest.raises(
        UserError, match=r"train/a/x\.png: expected deflate or no compression, got another; make the archive anew"
    ):
        read(tmp_path / "x.zip")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.xz"])
def test_a_damaged_archive_is_one_line(name, tmp_path):
    write_zip(tmp_path / name, FILES) if name.endswith("zip") else write_tar(tmp_path / name, FILES, f"w:{name[-2:]}")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"damaged archive: .*; fetch it again"):
        read(tmp_path / name)


def cut_in_a_header(content: bytes, at: int) -> bytes:
    return content[: at + 200]


def cut_between_members(content: bytes, at: int) -> bytes:
    return content[:at]


def flip_a_bit_of_a_header(content: bytes, at: int) -> bytes:
    return content[: at + 3] + bytes([content[at + 3] ^ 1]) + content[at + 4 :]


@pytest.mark.parametrize("damage", [cut_in_a_header, cut_between_members, flip_a_bit_of_a_header])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_tar_without_its_end_mark_is_damaged(name, damage, tmp_path):
    """tarfile would take the files before the damage for all there are."""
    write_tar(tmp_path / "x.tar", FILES, "w")
    with tarfile.open(tmp_path / "x.tar") as archive:
        at = archive.getmembers()[5].offset
    content = damage((tmp_path / "x.tar").read_bytes(), at)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(UserError, match=rf"damaged archive: at byte {at}: .*; fetch it again"):
        read(tmp_path / name)


def test_the_check_sum_at_the_end_of_gzip_is_compared(tmp_path):
    write_tar(tmp_path / "x.tar.gz", FILES, "w:gz")
    content = bytearray((tmp_path / "x.tar.gz").read_bytes())
    content[-8] ^= 1
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match="damaged archive: CRC check failed"):
        read(tmp_path / "x.tar.gz")


@pytest.mark.parametrize(
    "names",
    [("train", "again/train", "test"), ("train", "test", "again/test"), ("one/train", "other/test"), ("a/train", "b/val")],
)
def test_splits_in_several_places_are_not_put_together(names, tmp_path):
    write_zip(tmp_path / "x.zip", {f"{place}/{name}/1.png": png(1) for place in names for name in ("a", "b")})
    with pytest.raises(
        UserError, match=r"x\.zip: expected train and (test|val) in one folder, got some in '.*' and '.*'; name one"
    ):
        read(tmp_path / "x.zip")


def test_other_files_are_left_out_with_a_word(tmp_path, capsys):
    files = FILES | {
        "top/train/a/x.jfif": encode(Image.new("RGB", (8, 8)), "JPEG"),
        "top/train/a/y.heic": b"",
        "top/notes": b"",
    }
    write_zip(tmp_path / "x.zip", files | {"__MACOSX/top/train/a/._0.png": b""})
    spec = {"stage": "prepare", "source": {"kind": "imagefolder", "path": "x.zip"}, "classes": 2, "code": {}} | COLOUR.as_json()
    job = Job(spec=PrepareSpec.model_validate(spec), out=tmp_path / "x.safetensors", store=tmp_path, data_root=tmp_path)
    prepare.run(job)
    assert load_tensors(tmp_path / "x.safetensors")[0]["train_labels"].tolist() == [0, 0, 0, 1, 1]
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/x.zip: left out, hidden or of a system: 1, such as __MACOSX",
        f"prepare: {tmp_path}/x.zip: left out, by their endings no images: .heic",
    ]


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz"])
def test_the_last_of_a_name_counts(name, tmp_path, capsys):
    """`tar -r` puts a corrected file behind the first one, which unpacking overwrites."""
    path, first, last = tmp_path / name, dict(FILES), {"./top/train/a/0.png": png(99), "top/train/bb/1.png": png(77)}
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            for member, content in [*first.items(), ("top/train/a/0.png", png(98)), *last.items()]:
                archive.writestr(member.removeprefix("./"), content)
    else:
        with tarfile.open(path, {"x.tar": "w", "x.tar.xz": "w:xz"}.get(name, "w:gz")) as archive:
            for member, content in [("top/train", None), *first.items(), ("top/train", None), *last.items()]:
                header = tarfile.TarInfo(member)
                header.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
                header.size = len(content or b"")
                archive.addfile(header, io.BytesIO(content or b""))
    assert read(path).train_images[:, 0, 0, 0].tolist() == [99, 11, 2, 77]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{path}: left out, older ones of a name that the archive holds twice: 2, such as top/train/a/0.png"


INVISIBLE = [".ipynb_checkpoints/x.png", "__MACOSX/x.png", "@eaDir/0.png/x.jpg", ".x.png", "._0.png", "deep/.git/x/y.png"]


@pytest.mark.parametrize("name", ["folder", "x.zip", "x.tar"])
@pytest.mark.parametrize("invisible", INVISIBLE)
def test_hidden_and_system_entries_are_left_out_at_any_depth(invisible, name, tmp_path, capsys):
    files = FILES | {f"top/train/a/{invisible}": png(200), f"{invisible}": png(200), "top/train/a/.DS_Store": b""}
    path = tmp_path / name
    if name == "folder":
        for file, content in files.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_bytes(content)
        assert count_images(path) == stamp(path)["files"] == len(FILES)
    else:
        (write_zip if name == "x.zip" else write_tar)(path, files)
    assert read(path).train_images[:, 0, 0, 0].tolist() == [1, 11, 2, 12]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: left out, hidden or of a system: 2, such as "), "the .DS_Store is no image anyway"


UPWARD = {  # link in train/a -> what it leads to
    "the class": lambda root: root / "top" / "train" / "a",
    "the split": lambda root: root / "top" / "train",
    "the root": lambda root: root,
    "a folder above the root": lambda root: root.parent,
    "a folder that leads back": lambda root: root.parent / "other",
}


@pytest.mark.parametrize("target", UPWARD)
@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_link_to_a_folder_above_is_left_out(target, through_a_link, tmp_path, capsys):
    root = tmp_path / "data" / "folder"
    for file, content in FILES.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(content)
    (root.parent / "other").mkdir()
    (root.parent / "other" / "5.png").write_bytes(png(5))
    (root.parent / "other" / "back").symlink_to(root)
    (root / "top" / "train" / "a" / "link").symlink_to(UPWARD[target](root))
    if through_a_link:
        (tmp_path / "linked").symlink_to(root)
        root = tmp_path / "linked"
    followed = [5] if target == "a folder that leads back" else []  # a link that leads elsewhere is followed
    assert read(root).train_images[:, 0, 0, 0].tolist() == [1, 11, *followed, 2, 12]
    assert count_images(root) == stamp(root)["files"] == len(FILES) + len(followed)
    (line,) = capsys.readouterr().err.splitlines()
    link = "top/train/a/link/back" if followed else "top/train/a/link"
    assert line == f"{root}: left out, links to a folder above: 1, such as {link}"


def litter(folder: Path) -> None:
    """What editors, systems and links leave in a class: previews, copies, the whole set again."""
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (folder / name).mkdir()
        (folder / name / "copy.png").write_bytes(png(200))
    (folder / "up").symlink_to(folder.parent.parent)


def test_the_readers_of_other_sets_leave_out_the_same(tmp_path, capsys):
    for split in ("train", "val"):
        for wnid in ("n01", "n02"):
            for folder in (f"imagenet/{split}/{wnid}", f"tiny/{split}/{wnid}/images", f"distilled/{split}/{wnid}"):
                (tmp_path / folder).mkdir(parents=True)
                (tmp_path / folder / f"{wnid}.png").write_bytes(png(int(wnid[1:])))
                litter(tmp_path / folder)
    (tmp_path / "tiny" / "val" / "val_annotations.txt").write_text("n01.png\tn01\nn02.png\tn02\n")
    (tmp_path / "tiny" / "words.txt").write_text("n01\tgoldfish\n")
    files = replace(COLOUR, storage="files")
    source = ImageNet(kind="imagenet", train="imagenet/train", val="imagenet/val")
    in_files = imagenet.read(source, files, tmp_path)
    assert in_files.train_images.paths == [f"imagenet/train/{wnid}/{wnid}.png" for wnid in ("n01", "n02")]
    assert in_files.test_labels.tolist() == [0, 1]
    assert tiny_imagenet.read(TinyImageNet(kind="tiny_imagenet", path="tiny"), COLOUR, tmp_path).train_labels.tolist() == [0, 1]
    capsys.readouterr()
    listing = list_images(tmp_path / "distilled" / "train", ["n01", "n02"], 1)
    assert [str(path) for path in listing.places] == ["n01/n01.png", "n02/n02.png"]
    pack(listing, torch.empty(2, 3, 8, 8, dtype=torch.uint8))
    (line,) = capsys.readouterr().err.splitlines()  # of two walks
    assert line.endswith(
        "/train: left out, hidden or of a system: 6, such as n01/.ipynb_checkpoints; links to a folder above: 2, such as n01/up"
    )


def test_what_is_left_out_is_named_as_one_line(tmp_path, capsys):
    for file, content in FILES.items():
        (tmp_path / "x" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / file).write_bytes(content)
    (tmp_path / "x" / ".a\n\x1b[31m").mkdir()
    assert len(read(tmp_path / "x").train_labels) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"such as .a\n\x1b[31m")


def test_another_file_is_no_archive(tmp_path):
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match=r"expected a folder or an archive \(\.zip"):
        read(tmp_path / "x.rar")


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_every_kind_of_image_becomes_rgb():
    def decode(image: Image.Image, kind: str = "PNG") -> torch.Tensor:
        return to_tensor(open_image("x", encode(image, kind), "RGB"))

    red = Image.fromarray(np.tile(np.array([200, 40, 40], np.uint8), (8, 8, 1)))
    expected = torch.tensor([200, 40, 40]).view(3, 1, 1)
    assert (decode(red) == expected).all()
    assert (decode(red.convert("P", palette=Image.Palette.ADAPTIVE)) - expected.short()).abs().max() <= 2
    assert (decode(red.convert("CMYK"), "TIFF").short() - expected).abs().max() <= 12
    assert (decode(red.convert("RGBA")) == expected).all()
    assert (decode(Image.fromarray(np.full((8, 8), 70, np.uint8))) == 70).all()
    assert (decode(Image.fromarray(np.full((8, 8), 70 * 257, np.uint16))) == 70).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bits_a_pixel_have_no_known_range(kind):
    content = encode(Image.fromarray(np.full((8, 8), 1, kind)), "TIFF")
    with pytest.raises(UserError, match=r"^x: expected 8 or 16 bits a pixel of a channel, got 32; convert"):
        open_image("x", content, "L")


def test_a_line_of_pixels_is_no_image():
    """Its longer side would become as many times image_size."""
    assert open_image("x", encode(Image.new("L", (3, 300))), "L").size == (3, 300)
    with pytest.raises(UserError, match=r"^x: expected sides of at most 100 : 1, got 1 x 65000 px; cut"):
        open_image("x", encode(Image.new("L", (1, 65_000))), "L")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) (w) file closefile\n%%EOF\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (POSTSCRIPT, "a PostScript drawing"),
        (encode(Image.new("RGB", (16, 16)), "ICO"), "an icon"),
        (encode(Image.new("RGB", (8, 8)), "TGA"), "no format that is known"),
    ],
)
def test_only_the_formats_of_the_known_endings_are_decoded(content, what):
    """PIL would hand PostScript to Ghostscript, whatever the file is called."""
    with pytest.raises(UserError, match=rf"x\.png: expected an image, got {what}; replace or remove the file"):
        open_image("x.png", content, "RGB")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "BMP", "WEBP", "PPM", "TIFF", "GIF"])
def test_every_format_of_the_known_endings_is_decoded(kind):
    assert open_image("x", encode(Image.new("RGB", (8, 8)), kind), "RGB").size == (8, 8)


@pytest.mark.parametrize("shape", [(300, 400), (400, 301), (256, 256), (100, 90)])
def test_the_centre_is_cut_out_as_torchvision_does(shape):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    assert np.array_equal(np.array(square(image, 224, 256)), np.array(theirs))


def tiny_zip(path: Path, leave_out: str = "") -> None:
    wnids = ["n02", "n01"]
    files = {f"tiny-imagenet-200/train/{w}/images/{w}_{i}.JPEG": png(10 * int(w[1:]) + i, 64) for w in wnids for i in range(3)}
    files |= {f"tiny-imagenet-200/val/images/val_{i}.JPEG": png(100 + i, 64) for i in range(4)}
    notes = "".join(f"val_{i}.JPEG\t{wnids[i % 2]}\t0\t0\t62\t62\n" for i in range(4))
    files |= {"tiny-imagenet-200/val/val_annotations.txt": notes.encode(), "tiny-imagenet-200/wnids.txt": b"n02\nn01\n"}
    files["tiny-imagenet-200/words.txt"] = b"n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tcar\n"
    write_zip(path, {name: content for name, content in files.items() if not leave_out or leave_out not in name})


def test_tiny_imagenet_from_the_official_layout(tmp_path):
    tiny_zip(tmp_path / "tiny.zip")
    form = replace(COLOUR, image_size=64, resize=64)
    raw = tiny_imagenet.read(TinyImageNet(kind="tiny_imagenet", path="tiny.zip"), form, tmp_path)
    assert raw.class_names == ["goldfish", "bullfrog"]
    assert raw.train_images[:, 0, 0, 0].tolist() == [10, 11, 12, 20, 21, 22]
    assert raw.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.test_labels.tolist() == [0, 0, 1, 1]
    assert raw.test_images[:, 0, 0, 0].tolist() == [101, 103, 100, 102]


@pytest.mark.parametrize("part", ["words.txt", "val_annotations.txt", "train/", "val/images"])
def test_tiny_imagenet_of_another_layout_is_refused(part, tmp_path):
    tiny_zip(tmp_path / "tiny.zip", leave_out=part)
    form = replace(COLOUR, image_size=64, resize=64)
    with pytest.raises(UserError, match="expected the layout of the official zip, got another"):
        tiny_imagenet.read(TinyImageNet(kind="tiny_imagenet", path="tiny.zip"), form, tmp_path)


def test_another_file_than_the_official_zip_is_not_kept(served, tmp_path, monkeypatch):
    folder, address = served
    tiny_zip(folder / "tiny.zip")
    monkeypatch.setattr(tiny_imagenet, "URL", f"{address}/tiny.zip")
    form = replace(COLOUR, image_size=64, resize=64)
    source = TinyImageNet(kind="tiny_imagenet", path="tiny.zip")
    with pytest.raises(UserError, match=r"expected .*tiny\.zip \(MD5 \w+\), which could not be had: the file there has MD5 "):
        tiny_imagenet.read(source, form, tmp_path)
    assert not (tmp_path / "tiny.zip").exists()
    # What is left of it, as of an interrupted download, does no harm to the next one.
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5((folder / "tiny.zip").read_bytes()).hexdigest())
    assert tiny_imagenet.read(source, form, tmp_path).class_names == ["goldfish", "bullfrog"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.zip"]


def test_tiny_imagenet_without_a_network_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "URL", "http://127.0.0.1:9/tiny.zip")
    form = replace(COLOUR, image_size=64, resize=64)
    with pytest.raises(
        UserError, match=r"expected .*tiny\.zip \(MD5 \w+\), which could not be had: .*; put the file from http.* there"
    ):
        tiny_imagenet.read(TinyImageNet(kind="tiny_imagenet", path="tiny.zip"), form, tmp_path)
    assert list(tmp_path.iterdir()) == []
