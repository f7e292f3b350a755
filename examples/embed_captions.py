"""Captions beside images to embeddings for text-to-image models, by a sentence encoder.

Each image of the folder has a text file of the same name beside it (``birds/crow_1.jpg``, ``birds/crow_1.txt``) with a
caption on every line. The embeddings go to ``embeddings.safetensors`` in the folder, which is then a source of images
with captions:

    pip install 'ganfuse[text]'
    python examples/embed_captions.py path/to/birds
    ganfuse train gan-cls --data path/to/birds --resolution 64 --set interpolation_weight=1
    python examples/embed_captions.py path/to/birds --draw runs/gan-cls-birds "a small bird with a red head"

The encoder is downloaded when it is first used. The folder of one that is there already will do.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ganfuse.engine import load_run
from ganfuse.engine.data.image_store import open_store
from ganfuse.engine.grid import save_grid

Encode = Callable[[Sequence[str]], Tensor]
"""Texts to their embeddings, float32 (len(texts), features)."""

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed the captions of a folder of images, or draw a sentence.")
    parser.add_argument("folder", type=Path, help="images, each with a .txt of captions beside it")
    parser.add_argument("--encoder", default=ENCODER, help=f"name or folder of a sentence encoder ({ENCODER})")
    parser.add_argument("--draw", nargs=2, metavar=("RUN", "SENTENCE"), help="draw a sentence with a trained run")
    parser.add_argument("--out", type=Path, default=Path("drawn.png"), help="where to draw it")
    arguments = parser.parse_args()
    encode = sentence_encoder(arguments.encoder)
    if arguments.draw is None:
        print(embed_folder(arguments.folder, encode))
    else:
        run, sentence = arguments.draw
        print(draw_sentence(run, sentence, encode, arguments.out))


def sentence_encoder(name: str) -> Encode:
    """A model of the library sentence-transformers, from its hub or from a folder."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(name)

    def encode(texts: Sequence[str]) -> Tensor:
        # Encoders give vectors of length 1; networks are made for numbers of about 1.
        vectors = model.encode(list(texts), convert_to_tensor=True).float().cpu()
        return vectors / vectors.square().mean(1, keepdim=True).sqrt()

    return encode


def embed_folder(folder: Path, encode: Encode) -> Path:
    """Writes the embeddings of all captions, by image, and returns the file.

    Raises:
        ValueError: an image without captions.
    """
    captions = {}
    for name in open_store(folder).names:
        file = (folder / name).with_suffix(".txt")
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        captions[name] = [line.strip() for line in lines if line.strip()]
        if not captions[name]:
            raise ValueError(f"{name}: expected its captions in {file}, one on each line")
    vectors = encode([line for lines in captions.values() for line in lines])
    parts = torch.split(vectors, [len(lines) for lines in captions.values()])
    out = folder / "embeddings.safetensors"
    save_file({name: part.clone() for name, part in zip(captions, parts)}, out)
    return out


def draw_sentence(run: str, sentence: str, encode: Encode, out: Path, num: int = 16) -> Path:
    """A grid of images of one sentence, by a run of gan-cls that was trained with the same encoder."""
    images = load_run(run).sample(num, embeddings=encode([sentence])[0])  # type: ignore[call-arg]
    return save_grid(images, out)


if __name__ == "__main__":
    main()
