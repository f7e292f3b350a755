"""An image file of any common kind as a uint8 tensor of the wanted size: what happens to each kind is decided here.

* EXIF orientation is applied; colour profiles are not.
* Transparency (RGBA, grayscale with alpha, palettes with a transparent entry) is laid over white. Palettes, CMYK, YCbCr
  and LAB become RGB; one bit becomes 0 and 255.
* 16-bit grayscale keeps its upper eight bits' range (65535 becomes 255); float TIFFs must lie in [0, 1].
* Of an animation or a multi-page file the first picture is taken.
* Colour becomes gray by ITU-R 601 luma where one channel is asked for; gray becomes three equal channels.
* `ganfuse.engine.data.image_fit` makes it square.
"""

from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ganfuse.engine.data.image_fit import Resize, fit_image

if TYPE_CHECKING:
    from PIL import Image

#: File names with other endings are not considered images.
IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in "jpg jpeg jpe jfif png bmp gif tif tiff webp avif jp2 ppm pgm pbm pnm tga".split()  # noqa: SIM905
)
_EXIF_ORIENTATION = 0x0112


class UnreadableImageError(ValueError):
    """A file that should be an image and is not, or only in part. The message names it and says why."""


def decode_image(
    file: str | Path | IO[bytes], *, resolution: int, channels: int, resize: Resize = "crop", name: str | None = None
) -> Tensor:
    """The image as uint8 ``(channels, resolution, resolution)``.

    Args:
        file: its path, or the file itself, open for reading and seekable.
        resolution: side of the result in pixels.
        channels: 1 or 3.
        resize: "crop", "squash" or "pad"; see `fit_image`.
        name: what errors call it; by default the path.

    Raises:
        UnreadableImageError: missing, empty, truncated, not an image, or with values that cannot be understood.
    """
    return decode_columns(file, 1, resolution=resolution, channels=channels, resize=resize, name=name)[0]


def decode_picture(file: str | Path | IO[bytes], *, channels: int, name: str | None = None) -> Tensor:
    """The image at its own size, as uint8 ``(channels, H, W)``. Arguments and errors are those of `decode_image`."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return _to_tensor(_convert(_upright(image), channels))
    except Exception as error:
        raise UnreadableImageError(f"cannot read image {name or file}: {_reason(file, error)}") from error


def decode_columns(
    file: str | Path | IO[bytes],
    columns: int,
    *,
    resolution: int,
    channels: int,
    resize: Resize = "crop",
    name: str | None = None,
) -> Tensor:
    """Pictures that stand side by side in one file, as uint8 ``(columns, channels, resolution, resolution)``.

    The file is cut into that many columns of equal width, each of which is then fitted by itself. The other arguments
    and errors are those of `decode_image`; a width that ``columns`` does not divide is one of the errors.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8: many times faster for photographs, with twice the pixels needed.
            # Not where it is cut into columns: the reduced width might no longer be divisible.
            if columns == 1:
                image.draft(None, (2 * resolution, 2 * resolution))
            converted = _convert(_upright(image), channels)
        parts = [_to_tensor(fit_image(part, resolution, resize)) for part in _columns(converted, columns)]
    except Exception as error:
        # Pillow's decoders raise almost anything on broken files (OSError, SyntaxError, struct.error, IndexError...).
        raise UnreadableImageError(f"cannot read image {name or file}: {_reason(file, error)}") from error
    return torch.stack(parts)


def _columns(image: "Image.Image", columns: int) -> "list[Image.Image]":
    width, rest = divmod(image.width, columns)
    if rest:
        raise ValueError(f"it is {image.width} pixels wide, which {columns} pictures side by side cannot be")
    if columns == 1:
        return [image]
    return [image.crop((column * width, 0, (column + 1) * width, image.height)) for column in range(columns)]


def _upright(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    # Not ImageOps.exif_transpose: it also writes the EXIF block anew, which fails for tags it cannot express.
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        # A broken EXIF block does not make the picture unreadable; every viewer shows it as it is stored.
        turn = None
    return image if turn is None else image.transpose(turn)


def _convert(image: "Image.Image", channels: int) -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _to_eight_bits(image)
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    if channels == 1:
        return image.convert("L") if image.mode in ("1", "L", "RGB") else image.convert("RGB").convert("L")
    return image.convert("RGB")


def _to_eight_bits(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535.0
    lowest, highest = float(values.min()), float(values.max())
    # Written so that NaN fails too.
    if not (lowest >= 0.0 and highest <= top):
        raise ValueError(f"its values span {lowest:g} to {highest:g}, expected 0 to {top:g} for this kind of file")
    return Image.fromarray(np.rint(values.astype(np.float64) * (255.0 / top)).astype(np.uint8))


def _to_tensor(image: "Image.Image") -> Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _reason(file: str | Path | IO[bytes], error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(file, str | Path):
        path = Path(file)
        if not path.exists():
            return "no such file"
        empty = path.stat().st_size == 0
    else:
        empty = file.seek(0, 2) == 0
    if empty:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a kind that Pillow does not know"
    return str(error) or type(error).__name__
