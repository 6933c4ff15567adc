"""Normalisation between stored bytes and the inputs of networks."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gvbsm.config.shapes import PixelForm


class Pixels:
    """Normalisation of one data set: x = (byte / 255 - mean) / std per channel."""

    def __init__(self, form: PixelForm, device: torch.device) -> None:
        self.device = device
        self.mean = torch.tensor(form.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(form.std, device=device).view(1, -1, 1, 1)
        self._scale, self._shift = 1 / (255 * self.std), -self.mean / self.std

    def from_bytes(self, bytes_BCHW: Tensor) -> Tensor:
        """uint8 to normalised float32."""
        return self.from_levels(bytes_BCHW.float())

    def from_levels(self, levels_BCHW: Tensor) -> Tensor:
        """Float levels 0..255, such as resized images have, to normalised values."""
        return torch.addcmul(self._shift, levels_BCHW, self._scale)  # one pass instead of three

    def unit(self, x_BCHW: Tensor) -> Tensor:
        """Normalised values to 0..1."""
        return x_BCHW * self.std + self.mean

    def limits(self) -> tuple[Tensor, Tensor]:
        """The least and largest normalised value of a real image, each (1,C,1,1)."""
        return (0 - self.mean) / self.std, (1 - self.mean) / self.std

    def to_bytes(self, x_BCHW: Tensor, quantise: str) -> Tensor:
        """Normalised values to uint8, by "round" or (published) "truncate"."""
        unit = self.unit(x_BCHW).clamp(0, 1) * 255
        return (unit.round() if quantise == "round" else unit).to(torch.uint8)


def jpeg_round_trip(bytes_BCHW: Tensor, quality: int = 75) -> Tensor:
    """uint8 images after JPEG compression at PIL's default quality, as the published code stores them."""
    images = []
    for image_CHW in bytes_BCHW.cpu():
        array = image_CHW.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(buffer, "JPEG", quality=quality)
        images.append(torch.from_numpy(np.array(Image.open(buffer))).reshape(array.shape).permute(2, 0, 1))
    return torch.stack(images)
