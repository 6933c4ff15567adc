"""Write data/cifar10-jpeg.tar.xz: CIFAR-10 as JPEG of quality 75, train|test/<class>/<number>.jpg, from the official archive.

The archive is data/cifar-10-binary.tar.gz, downloaded if it is not there; numbers are by class, in its order. JPEG is lossy,
so accuracies on the copies compare with each other alone. Run it from the project's root:
`python benchmarks/studies/jpeg_copies.py`.
"""

import sys
import tarfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from gvbsm.config.sources import Cifar
from gvbsm.data.cifar import read
from gvbsm.data.raw import Form
from gvbsm.errors import UserError


def main(data: Path = Path("data")) -> None:
    """Read the one archive, write the other."""
    cifar = read(Cifar(kind="cifar10"), Form(image_size=32, channels=3, resize=32, storage="packed"), data)
    splits = {"train": (cifar.train_images, cifar.train_labels), "test": (cifar.test_images, cifar.test_labels)}
    with tarfile.open(data / "cifar10-jpeg.tar.xz", "w:xz") as target:
        for split, (images_NCHW, labels_N) in splits.items():
            for label, name in enumerate(cifar.classes):
                for number, image_CHW in enumerate(images_NCHW[labels_N == label]):
                    jpeg = BytesIO()
                    Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(jpeg, "JPEG", quality=75)
                    header = tarfile.TarInfo(f"{split}/{name}/{number:04d}.jpg")
                    header.size = jpeg.tell()
                    jpeg.seek(0)
                    target.addfile(header, jpeg)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"jpeg_copies: expected to write data/cifar10-jpeg.tar.xz: {error}; make its folder writable")
