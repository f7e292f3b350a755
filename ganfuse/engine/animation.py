"""Image sequences as GIF, WebP or MP4."""

import shutil
import subprocess
from pathlib import Path

from torch import Tensor

from ganfuse.engine.atomic_file import atomic_write
from ganfuse.engine.grid import make_grid

__all__ = ["ANIMATED", "save_animation"]

ANIMATED = (".gif", ".webp", ".mp4")


def save_animation(
    images: Tensor, path: str | Path, *, frames_per_second: float = 16.0, columns: int | None = None, scale: int = 1
) -> Path:
    """Writes sequences side by side, each a cell of a grid, as an endless animation.

    Args:
        images: float (N, T, C, H, W) in [-1, 1]: N sequences of T frames.
        path: ends in .gif, .webp or .mp4. MP4 is written by the program ``ffmpeg``, which must be installed.
        frames_per_second: above 0.
        columns: cells in a row; None makes the grid about square.
        scale: whole factor by which each image is enlarged.

    Returns:
        The path written.

    Raises:
        ValueError: another ending, or an argument out of range.
        FileNotFoundError: ffmpeg is needed and not there.
        RuntimeError: ffmpeg failed; the message has its last line.
    """
    path = Path(path)
    if path.suffix.lower() not in ANIMATED:
        raise ValueError(f"path: expected an ending of {', '.join(ANIMATED)}, got {path}")
    if images.dim() != 5:
        raise ValueError(f"images: expected (N, T, C, H, W), got {tuple(images.shape)}")
    if not frames_per_second > 0:
        raise ValueError(f"frames_per_second: expected a number above 0, got {frames_per_second!r}")
    frames = [make_grid(frame, columns, scale=scale) for frame in images.unbind(1)]
    if path.suffix.lower() == ".mp4":
        _write_mp4(frames, path, frames_per_second)
    else:
        _write_animated_picture(frames, path, frames_per_second)
    return path


def _write_animated_picture(frames: list[Tensor], path: Path, rate: float) -> None:
    from PIL import Image

    pictures = [Image.fromarray((f[0] if len(f) == 1 else f.permute(1, 2, 0)).contiguous().numpy()) for f in frames]
    kind = path.suffix.lower().removeprefix(".").upper().replace("WEBP", "WebP")
    lossless = {"lossless": True} if kind == "WebP" else {}
    with atomic_write(path) as file:
        pictures[0].save(
            file, format=kind, save_all=True, append_images=pictures[1:], duration=1000.0 / rate, loop=0, **lossless
        )


def _write_mp4(frames: list[Tensor], path: Path, rate: float) -> None:
    program = shutil.which("ffmpeg")
    if program is None:
        raise FileNotFoundError("ffmpeg: the program that writes .mp4 is not installed; .gif and .webp need nothing")
    # The common pixel format of players has colours for 2×2 blocks: an odd edge is cut off.
    height, width = (size // 2 * 2 for size in frames[0].shape[1:])
    raw = b"".join(
        frame.expand(3, -1, -1)[:, :height, :width].permute(1, 2, 0).contiguous().numpy().tobytes() for frame in frames
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.writing.mp4")
    command = [program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", str(rate), "-i", "-", "-pix_fmt", "yuv420p", "-crf", "18", str(temporary)]
    done = subprocess.run(command, input=raw, capture_output=True, check=False)
    if done.returncode:
        temporary.unlink(missing_ok=True)
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"ffmpeg could not write {path}: {lines[-1] if lines else f'exit {done.returncode}'}")
    temporary.replace(path)
