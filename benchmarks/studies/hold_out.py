"""Write data/cifar10-val.tar: the training images of data/cifar10-jpeg.tar.xz, 500 of each class as the test split.

Choices are made on these, and so have not seen the test images. Run it from the project's root, after jpeg_copies.py:
`python benchmarks/studies/hold_out.py`.
"""

import lzma
import random
import sys
import tarfile
from io import BytesIO
from pathlib import Path

from gvbsm.errors import first_line

COPIES, HELD = Path("data/cifar10-jpeg.tar.xz"), Path("data/cifar10-val.tar")
HELD_OUT = 500  # of each class


def main() -> None:
    """Read the one archive, write the other."""
    by_class: dict[str, dict[str, bytes]] = {}
    if not COPIES.exists():
        sys.exit(
            f"{COPIES}: expected the JPEG copies of CIFAR-10, got no file; run python benchmarks/studies/jpeg_copies.py first"
        )
    with tarfile.open(COPIES) as source:
        for member in source:
            if member.isfile() and member.name.startswith("train/"):
                _, name, file = member.name.split("/")
                content = source.extractfile(member)
                assert content is not None
                by_class.setdefault(name, {})[file] = content.read()
    with tarfile.open(HELD, "w") as target:
        for name in sorted(by_class):
            files = sorted(by_class[name])
            random.Random(0).shuffle(files)  # the same places of every class, whose order in the archive means nothing
            for place, file in enumerate(files):
                header = tarfile.TarInfo(f"{'test' if place < HELD_OUT else 'train'}/{name}/{file}")
                header.size = len(by_class[name][file])
                target.addfile(header, BytesIO(by_class[name][file]))


if __name__ == "__main__":
    try:
        main()
    except (OSError, tarfile.TarError, EOFError, lzma.LZMAError) as error:
        sys.exit(f"hold_out: expected to read {COPIES} and write {HELD}: {first_line(error)}; make {COPIES} anew")
