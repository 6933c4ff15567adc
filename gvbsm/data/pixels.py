"""Normalisation between stored bytes and the inputs of networks."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gvbsm.config.shapes import PixelForm


class Pixels:
    """Normalisation of one data set: x = (byte / 255 - mean) / std per channel.

    Images are (B,C,S,S), C and S those of `form`. Its methods raise ValueError for tensors of another type or shape: floats in
    0..1 or images of one channel instead of three would give wrong inputs without an error.
    """

    def __init__(self, form: PixelForm, device: torch.device) -> None:
        self.device = device
        self._shape = len(form.mean), form.image_size, form.image_size
        self.mean = torch.tensor(form.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(form.std, device=device).view(1, -1, 1, 1)
        self._scale, self._shift = 1 / (255 * self.std), -self.mean / self.std

    def from_bytes(self, bytes_BCHW: Tensor) -> Tensor:
        """uint8 to normalised float32."""
        self._check(bytes_BCHW, torch.uint8)
        return self.from_levels(bytes_BCHW.float())

    def from_levels(self, levels_BCHW: Tensor) -> Tensor:
        """Float levels 0..255, such as resized images have, to normalised values."""
        self._check(levels_BCHW)
        return torch.addcmul(self._shift, levels_BCHW, self._scale)  # one pass instead of three

    def unit(self, x_BCHW: Tensor) -> Tensor:
        """Normalised values to 0..1."""
        self._check(x_BCHW)
        return x_BCHW * self.std + self.mean

    def limits(self) -> tuple[Tensor, Tensor]:
        """The least and largest normalised value of a real image, each (1,C,1,1)."""
        return (0 - self.mean) / self.std, (1 - self.mean) / self.std

    def to_bytes(self, x_BCHW: Tensor, quantise: str) -> Tensor:
        """Normalised values to uint8, by "round" or (published) "truncate"."""
        if quantise not in ("round", "truncate"):
            raise ValueError(f"quantise: expected round or truncate, got {quantise!r}; correct it")
        unit = self.unit(x_BCHW).clamp(0, 1) * 255
        return (unit.round() if quantise == "round" else unit).to(torch.uint8)

    def _check(self, images_BCHW: Tensor, dtype: torch.dtype | None = None) -> None:
        _check(images_BCHW, dtype, self._shape)


def jpeg_round_trip(bytes_BCHW: Tensor, quality: int = 75) -> Tensor:
    """uint8 images (B,C,S,S), grey or RGB, after JPEG compression at PIL's default quality, as the published code stores them.

    Raises:
        ValueError: for tensors of another type or shape.
    """
    _check(bytes_BCHW, torch.uint8, (1 if bytes_BCHW.shape[1] == 1 else 3, *bytes_BCHW.shape[2:]))
    images = []
    for image_CHW in bytes_BCHW.cpu():
        array = image_CHW.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(buffer, "JPEG", quality=quality)
        images.append(torch.from_numpy(np.array(Image.open(buffer))).reshape(array.shape).permute(2, 0, 1))
    return torch.stack(images)


def _check(images_BCHW: Tensor, dtype: torch.dtype | None, shape_CHW: tuple[int, ...]) -> None:
    """Raise ValueError unless these are images of a type (None: of any float) and shape."""
    is_tensor = isinstance(images_BCHW, Tensor)
    has_type = is_tensor and (images_BCHW.dtype == dtype if dtype else images_BCHW.is_floating_point())
    if has_type and images_BCHW.ndim == 4 and images_BCHW.shape[1:] == shape_CHW:
        return
    expected = f"{str(dtype).removeprefix('torch.') if dtype else 'floats'} of shape (B,{','.join(map(str, shape_CHW))})"
    got = type(images_BCHW).__name__
    if is_tensor:
        got = f"{str(images_BCHW.dtype).removeprefix('torch.')} of shape ({','.join(map(str, images_BCHW.shape))})"
    raise ValueError(f"images: expected {expected}, got {got}; convert, resize or cut them first")
