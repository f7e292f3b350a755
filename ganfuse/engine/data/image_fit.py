"""How a picture of any shape becomes a square one."""

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from PIL import Image

Resize = Literal["crop", "squash", "pad"]


def check_resize(resize: object) -> None:
    """Raises a ValueError for anything but "crop", "squash" or "pad"."""
    if resize not in get_args(Resize):
        raise ValueError(f"resize must be one of {', '.join(map(repr, get_args(Resize)))}, got {resize!r}")


def fit_image(image: "Image.Image", resolution: int, resize: Resize) -> "Image.Image":
    """The picture at ``resolution × resolution``, resampled by Lanczos' filter (antialiased where it shrinks).

    Args:
        image: of mode L or RGB.
        resolution: side of the result in pixels.
        resize: "crop" keeps the largest centred square ("short side to the resolution, then centre crop" in one step);
            "squash" keeps everything and lets the proportions go; "pad" keeps everything and the proportions, with
            black beside or above and below.
    """
    from PIL import Image

    size = (resolution, resolution)
    if resize == "squash" or image.width == image.height:
        return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if resize == "pad":
        scale = resolution / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        whole = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        square = Image.new(image.mode, size)
        square.paste(whole, ((resolution - width) // 2, (resolution - height) // 2))
        return square
    side = min(image.size)
    # Whole pixels, so that an image of the right size is cropped and not resampled by half a pixel.
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + side, top + side), reducing_gap=3.0)
