"""Distilled images and their soft labels (docs/soft-labels.md), read with numpy and torch alone; copy this file.

`DataLoader(SoftLabels(images, labels, files), batch_size=50, shuffle=True, num_workers=4)` gives views (B,C,S,S) in 0..1, soft
labels (B,K), logits, and hard labels (B,K), probabilities. Images (N,C,S,S) uint8 and labels (N,) by class and number.
"""

import hashlib
import json
import math
import random

import numpy as np
import torch


class SoftLabels(torch.utils.data.Dataset):
    def __init__(self, images, labels, files, rest="mean"):  # rest: "mean" for the squared error, "mass" for probabilities
        self.images, self.labels, self.rest, self.epochs, self.drawn = images, labels, rest, [], (None, None)
        types = {"F32": "<f4", "F16": "<f2", "U8": "u1", "I16": "<i2", "I32": "<i4"}
        for file in files:
            with open(file, "rb") as shard:
                start = 8 + int.from_bytes(shard.read(8), "little")
                header = json.loads(shard.read(start - 8))
            meta = json.loads(header.pop("__metadata__")["gvbsm"])
            if meta.get("format") != 1 or meta["views"]["count"] != len(images) or "rand_augment" in meta["views"]:
                raise ValueError(f"{file}: expected soft labels of format 1, of {len(images)} images, without rand_augment")
            at = {n: (types[t["dtype"]], "r", start + t["data_offsets"][0], tuple(t["shape"])) for n, t in header.items()}
            maps = {name: np.memmap(file, *where) for name, where in at.items()}
            self.epochs += [(meta, maps, number) for number in range(len(meta["digests"]))]

    def __len__(self):
        return len(self.epochs) * len(self.images)

    def __getitem__(self, item):
        epoch, position = divmod(item, len(self.images))
        meta, maps, number = self.epochs[epoch]
        if self.drawn[0] != epoch:
            stored, names = meta["views"].get("stored"), ("image", "crop", "flip", "partner", "box", "keep")
            drawn = [maps[n][number] for n in names] if stored else draw(meta["views"], meta["epochs"][0] + number)
            if hashlib.sha256(b"".join(one.tobytes() for one in drawn)).hexdigest()[:16] != meta["digests"][number]:
                raise ValueError(f"epoch {epoch}: other views than those that were labelled")
            self.drawn = epoch, drawn
        image, crop, flip, partner, box, keep = self.drawn[1]
        (top, left, bottom, right), share, both = box[position], keep[position], [position, partner[position]]
        view, other = (self.crop(image[i], crop[i], flip[i]) for i in both)
        if bottom > top:
            view[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        else:
            view = share * view + (1 - share) * other
        one_hot = np.eye(len(meta["classes"]), dtype=np.float32)
        hard = np.float32([share, 1 - share]) @ one_hot[np.asarray(self.labels)[image[both]]]
        return view, decode({name: one[number, position] for name, one in maps.items()}, meta, self.rest), hard

    def crop(self, index, crop, flip):
        size = self.images.shape[-1]
        starts, sides = torch.from_numpy(crop.astype(np.float32)).view(2, 2, 1)
        at = starts + (torch.arange(size) + 0.5) * (sides / size)
        rows, columns = torch.clamp(at, starts + 0.5, starts + sides - 0.5) * (2 / size) - 1
        grid = torch.stack(torch.meshgrid(columns.flip(0) if flip else columns, rows, indexing="xy"), 2)
        image = self.images[int(index)][None].float()
        return torch.nn.functional.grid_sample(image, grid[None], padding_mode="border", align_corners=False)[0] / 255


def decode(coded, meta, rest):
    values, top, classes, found = meta["coding"]["values"], meta["coding"].get("top"), len(meta["classes"]), coded["values"]
    if values == "int4":
        found = np.stack([found & 15, found >> 4], 1).ravel()[: min(top or classes, classes)]
    if values in ("int8", "int4"):
        found = coded["low"].astype(np.float32) + found * coded["step"].astype(np.float32)
    if "index" in coded:
        mean, mass = coded["rest"].astype(np.float32)
        kept, found = found, np.full(classes, mean if rest == "mean" else mass - math.log(classes - top))
        found[coded["index"]] = kept
    return found.astype(np.float32)


def bits(key, count):
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def draw(how, epoch):
    n, size, side = how["count"], how["size"], how["size"] // how.get("cells", 1)
    seed = hashlib.sha256(json.dumps([how["seed"], "views", epoch], separators=(",", ":")).encode()).digest()

    def key(*parts):
        found = int.from_bytes(seed[:8], "big") >> 1
        for part in parts:
            found = int(bits(found ^ part, 1)[0]) & (2**63 - 1)
        return found

    def uniform(key, *shape):
        return (bits(key, math.prod(shape)) >> np.uint64(11)).reshape(shape) * 2.0**-53

    (least, most), (narrow, wide) = how["scale"], (math.log(end) for end in how["ratio"])
    area = side**2 * (least + (most - least) * uniform(key(2), n, 10))
    aspect = np.exp(narrow + (wide - narrow) * uniform(key(3), n, 10))
    sides = np.sqrt([area / aspect, area * aspect]).round().astype(np.int64)
    fits = ((sides > 0) & (sides <= side)).all(0)
    sides = np.where(fits.any(1), sides[:, np.arange(n), fits.argmax(1)], side)
    starts = (np.stack([uniform(key(4), n), uniform(key(5), n)]) * (side - sides + 1)).astype(np.int64)
    starts += (uniform(key(9), n, 2).T * (size // side)).astype(np.int64) * side
    partner, box, keep, alpha = np.arange(n), np.zeros((n, 4), "<i2"), np.ones(n, "<f4"), how["mix_alpha"]
    for number, first in enumerate(range(0, n, how["batch_size"]) if how["mix"] != "none" else ()):
        batch, draws = slice(first, min(first + how["batch_size"], n)), random.Random(key(7, number))
        partner[batch] = first + np.argsort(bits(key(6, number), batch.stop - first).view(np.int64), kind="stable")
        keep[batch] = u = uniform(key(7, number), 1)[0] if alpha == 1 else draws.betavariate(alpha, alpha)
        if how["mix"] == "cutmix":
            half, centre = int(size * math.sqrt(1 - u)) // 2, (uniform(key(8, number), 2) * size).astype(np.int64)
            box[batch] = top, left, bottom, right = *np.maximum(centre - half, 0), *np.minimum(centre + half, size)
            keep[batch] = 1 - (bottom - top) * (right - left) / size**2
    keep[partner == np.arange(n)] = 1
    image, flip = np.argsort(bits(key(0), n).view(np.int64), kind="stable"), uniform(key(1), n) < (0.5 if how["flip"] else 0)
    return image.astype("<i4"), np.concatenate([starts, sides]).T.astype("<i2"), flip, partner.astype("<i4"), box, keep
