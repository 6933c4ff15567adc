"""Published soft labels and their images as files of ours, converted by hand, without a row."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from gvbsm.data.distilled import Listing, imagefolder_order, list_images, pack
from gvbsm.data.files import open_image, read_entries
from gvbsm.data.fkd import PublishedLabels, one_view
from gvbsm.errors import UserError
from gvbsm.runtime.progress import Progress
from gvbsm.store.files import nameless_tensor, save_tensors

_EPOCHS = 50  # of a file


def import_fkd(labels: Path, images: Path, out: Path, seed: int) -> str:
    """Write `images.safetensors` and `labels-<first epoch>.safetensors` into `out`; a line that says what was written.

    Raises:
        UserError: for images or labels that are not as published, or do not belong together; if `out` has labels already.
    """
    if any(out.glob("labels-*.safetensors")):
        raise UserError(f"{out}: expected a folder without labels, got some; delete them, or name another")
    listing = list_images(images)
    count, classes, size = len(listing.labels), len(listing.folders), _pack(listing, out)
    order = imagefolder_order(listing.folders, listing.labels)
    published = PublishedLabels(labels, listing.labels, order, size, classes, seed)
    epochs, coding, written = len(list(labels.glob("epoch_*"))), published.coding, []
    orders, progress = published.orders(0), Progress("import-fkd", epochs, images=count)
    for first in range(0, epochs, _EPOCHS):
        end, digests, right = min(first + _EPOCHS, epochs), [], 0
        tensors = {
            name: nameless_tensor(out, (end - first, count, *values.shape[1:]), values.dtype)
            for name, values in one_view(classes, coding).items()
        }
        for epoch in range(first, end):
            into = {name: tensor[epoch - first] for name, tensor in tensors.items()}
            digest, right_in_epoch = published.convert(epoch, next(orders), coding, into)
            digests.append(digest)
            right += right_in_epoch
            progress.step()
        published.check_agreement(right, (end - first) * count)
        written.append(out / f"labels-{first:05d}.safetensors")
        metadata = published.metadata(first, digests, asdict(coding))
        save_tensors(written[-1], tensors, {"classes": listing.folders, **metadata})
    before = sum(file.stat().st_size for file in labels.glob("epoch_*/batch_*.tar"))
    after = sum(file.stat().st_size for file in written)
    what = f"{epochs} epochs of labels of {count} images of {size} px in {classes} classes"
    how = f"{after:,} bytes in {len(written)} file{'s' * (len(written) > 1)}, {after / before:.0%} of the published"
    return f"{out}: {what}, {how}\n"


def _pack(listing: Listing, out: Path) -> int:
    """Write the images into one file; the side that all of them have, px."""
    size = _side(listing)
    images = nameless_tensor(out, (len(listing.labels), 3, size, size), torch.uint8)
    resized = pack(listing, images)
    if resized:
        raise UserError(f"{listing.root}: expected all images of {size} px, got {resized} others; use those that were labelled")
    tensors = {"images": images, "labels": listing.labels, "numbers": listing.numbers}
    save_tensors(out / "images.safetensors", tensors, {"classes": listing.folders})
    return size


def _side(listing: Listing) -> int:
    """Px of the first image, which must be square."""
    for entry in read_entries(listing.root, quiet=True):
        if entry.read and entry.path in listing.places:
            where = f"{listing.root}/{entry.path}"
            width, height = open_image(where, entry.read(), "RGB").size
            if width != height:
                raise UserError(
                    f"{where}: expected a square image, got {width} x {height} px; use the images that were labelled"
                )
            return width
    raise UserError(f"{listing.root}: expected images, got none; put them there")
