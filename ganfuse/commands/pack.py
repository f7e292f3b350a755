"""`ganfuse pack`: a data set decoded once, into a form that costs nothing to read."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ganfuse.commands._errors import CommandError
from ganfuse.commands._output import print_result

EXAMPLE = "ganfuse pack path/to/images packed/images-128 --resolution 128"


class Resize(str, Enum):
    """How pictures become square."""

    crop = "crop"
    squash = "squash"
    pad = "pad"


class OnBadImage(str, Enum):
    """What happens to images that cannot be read."""

    error = "error"
    skip = "skip"


class Channels(str, Enum):
    """Gray or RGB."""

    gray = "1"
    rgb = "3"


def pack(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder or zip archive of images, hf:owner/name, or a name.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    resolution: Annotated[
        int | None, typer.Option(help="Side of the images in pixels.", show_default="64; 32 for digits, fashion-mnist")
    ] = None,
    channels: Annotated[Channels | None, typer.Option(help="1 or 3.", show_default="the source's own")] = None,
    resize: Annotated[
        Resize,
        typer.Option(help="Crop to the centred square, squash the whole picture, or pad it with black."),
    ] = Resize.crop,
    on_bad_image: Annotated[
        OnBadImage, typer.Option(help="Stop with the name of an image that cannot be read, or leave it out.")
    ] = OnBadImage.error,
    max_images: Annotated[int | None, typer.Option(help="Take so many at random.", show_default="all")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything back and compare the checksums.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a packed data set in OUT.")] = False,
) -> None:
    """Decode and resize a data set once, into memory-mapped files.

    Training then reads images at the speed of memory: ganfuse train --data OUT. OUT appears when it is complete; an
    attempt that was interrupted leaves nothing that counts, and the next one begins anew.
    """
    from ganfuse.engine.data import default_resolution, open_dataset, open_packed, pack_dataset
    from ganfuse.engine.data.packing import require_free

    try:
        require_free(out.expanduser(), overwrite=overwrite)
    except FileExistsError as error:
        hint = "--overwrite replaces a packed data set; or choose another folder"
        raise CommandError(str(error), hint=hint) from error
    data = open_dataset(
        source,
        resolution=default_resolution(source) if resolution is None else resolution,
        channels=None if channels is None else int(channels.value),
        resize=resize.value,
        cache=False,
        max_images=max_images,
    )
    meta = pack_dataset(
        data, out, source=source, resize=resize.value, on_bad_image=on_bad_image.value, overwrite=overwrite
    )
    if verify:
        open_packed(out, verify=True)
    size = meta.count * meta.channels * meta.resolution**2
    classes = f", {len(meta.class_names)} classes" if len(meta.class_names) > 1 else ""
    images = f"{meta.count:,} images of {meta.channels}×{meta.resolution}×{meta.resolution}{classes}"
    typer.echo(f"Packed {images}, {size / 2**20:,.1f} MiB" + (", checksums verified" if verify else ""))
    print_result(("images", out), ("train", f"ganfuse train --data {out} --resolution {meta.resolution}"))
