"""Images per second that a data loader delivers: folders and zip archives of PNG and JPEG, and the packed form.

    python benchmarks/data_loading.py                    # writes benchmarks/results/data-loading.jsonl
    python benchmarks/data_loading.py --images 2000 --source-size 512 --resolution 256 --workers 0 8
    python benchmarks/data_loading.py --report benchmarks/results/data-loading.jsonl

Photograph-like pictures are made in a temporary folder and read from there as batches of uint8 tensors, in a shuffled
order, by the data loader that training uses, until the batch is in memory: what a GPU would wait for. The files are in
the operating system's cache, so that this is the cost of decoding and copying, not of the disk. All forms give the same
pixels (JPEG: its own), which is checked first. They are timed in turn; "spread" is how far the first half of the rounds
is from the second. The wall clock counts, since workers are processes of their own: measure on a quiet machine.
"""

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ganfuse.bench import records
from ganfuse.bench.timing import Call, CpuTimer, measure
from ganfuse.engine.data import ImageDataset, open_dataset, pack_dataset

DEFAULT_OUT = Path(__file__).resolve().parent / "results" / "data-loading.jsonl"
FORMS = ("folder of PNG", "folder of JPEG", "zip of PNG", "zip of JPEG", "packed", "in memory")


class Settings(NamedTuple):
    """What is read."""

    images: int
    source_size: int
    resolution: int
    batch_size: int


def photograph(size: int, generator: np.random.Generator) -> Image.Image:
    """Soft shapes, edges and a little noise: compresses about as photographs do."""
    coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    y, x = np.mgrid[:size, :size]
    for _ in range(12):
        centre, radius = generator.integers(0, size, 2), generator.integers(size // 16, size // 4)
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
        pixels = np.where(inside[..., None], pixels * 0.4 + generator.integers(0, 160, 3), pixels)
    noisy = pixels + generator.normal(0, 4, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def make_sources(folder: Path, settings: Settings) -> dict[str, ImageDataset]:
    """The same pictures in every form."""
    generator = np.random.default_rng(0)
    png, jpeg = folder / "png", folder / "jpeg"
    for index in range(settings.images):
        picture = photograph(settings.source_size, generator)
        for path, options in ((png, {"compress_level": 6}), (jpeg, {"quality": 90})):
            target = path / f"class{index % 10}" / f"{index:06}.{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, **options)
    archives = [_archive(path) for path in (png, jpeg)]
    packed = folder / "packed"
    unpacked = open_dataset(png, resolution=settings.resolution, cache=False)
    pack_dataset(unpacked, packed, source=str(png))
    paths = dict(zip(FORMS[:5], (png, jpeg, *archives, packed), strict=True))
    sources = {form: open_dataset(path, resolution=settings.resolution, cache=False) for form, path in paths.items()}
    return sources | {FORMS[5]: open_dataset(png, resolution=settings.resolution)}


def _archive(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    # Images are compressed already.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


def check_equal(sources: dict[str, ImageDataset], images: int = 20) -> None:
    """Raises an AssertionError unless all forms of the same files have the same pixels and labels."""
    for form, data in sources.items():
        same_files = "folder of JPEG" if "JPEG" in form else "folder of PNG"
        for index in range(min(images, len(data))):
            (image, label), (expected, expected_label) = data[index], sources[same_files][index]
            if label != expected_label or not torch.equal(image, expected):
                raise AssertionError(f"image {index} of {form} differs from that of the {same_files}")


class Reader:
    """Goes through a data set again and again, with workers that stay."""

    def __init__(self, data: ImageDataset, batch_size: int, workers: int) -> None:
        self._loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            data,
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(0),
        )
        self.images = len(self._loader) * batch_size

    def read(self) -> int:
        """All batches once; returns a byte of each, so that every batch was there."""
        return sum(int(images[0, 0, 0, 0]) for images, _ in self._loader)


def measure_all(
    sources: dict[str, ImageDataset], settings: Settings, workers: int, *, rounds: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """A row of the result file for every form."""
    readers = {form: Reader(data, settings.batch_size, workers) for form, data in sources.items()}

    def call(reader: Reader) -> Call:
        return Call(lambda _: reader.read())

    calls = {form: call(reader) for form, reader in readers.items()}
    timings = measure(calls, CpuTimer(), rounds=rounds, seconds=seconds)
    for form, timing in timings.items():
        yield {
            "kind": "row",
            "case": _case(form, workers, settings),
            "form": form,
            "workers": workers,
            **settings._asdict(),
            "images_per_second": readers[form].images / timing.median,
            "spread": timing.spread,
            "rounds": rounds,
        }


def _case(form: str, workers: int, settings: Settings) -> str:
    return f"{form}/{workers} workers/{settings.images}x{settings.source_size}to{settings.resolution}"


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = ["| form | pictures | read at | workers | images/s | spread |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['form']} | {row['images']} of {row['source_size']} px | {row['resolution']} px | {row['workers']} "
            f"| {row['images_per_second']:,.0f} | {row['spread']:.0%} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="result file (JSON lines)")
    parser.add_argument("--images", type=int, default=512, help="how many pictures")
    parser.add_argument("--source-size", type=int, default=256, help="side of the files' pictures")
    parser.add_argument("--resolution", type=int, default=128, help="side at which they are read")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes that read")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="that one form gets in one round, at least one pass")
    parser.add_argument("--restart", action="store_true", help="begin the file anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of a result file")
    args = parser.parse_args(argv)
    if args.report:
        print(report([r for r in records.read(args.report) if r["kind"] == "row"]))
        return 0
    settings = Settings(args.images, args.source_size, args.resolution, args.batch_size)
    if settings.images < settings.batch_size:
        parser.error(f"--images {settings.images} do not fill a batch of {settings.batch_size}")
    about = records.header(
        "data-loading", torch.device("cpu"), "python benchmarks/data_loading.py", folder="engine/data"
    )
    try:
        file = records.ResultFile(args.out, about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    there = {row["case"] for row in file.rows()}
    todo = [n for n in args.workers if not {_case(form, n, settings) for form in FORMS} <= there]
    if todo:
        with tempfile.TemporaryDirectory() as folder:
            print(f"making {settings.images} pictures", file=sys.stderr, flush=True)
            sources = make_sources(Path(folder), settings)
            check_equal(sources)
            for workers in todo:
                print(f"reading with {workers} workers", file=sys.stderr, flush=True)
                for row in measure_all(sources, settings, workers, rounds=args.rounds, seconds=args.seconds):
                    if row["case"] not in there:
                        file.append(row)
    print(report(file.rows()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
