"""Short trainings of the models of two domains and of those with encoders: the runs of docs/gallery/translation.md.

    python benchmarks/gallery_translation.py cyclegan unit     # trains, scores, draws; appends to benchmarks/results/
    python benchmarks/gallery_translation.py --list
    python benchmarks/gallery_translation.py inversion         # finds latents of pictures, with the run of bigan
    python benchmarks/gallery_translation.py --page            # writes docs/gallery/translation.md from the results

As benchmarks/gallery.py, which does the work and has the options (`--device cuda --steps-factor 10`); scores are of
pictures that were not trained on. Each translation is compared with the picture that belongs to it, which nobody but
CSGAN is shown in training.
"""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import gallery, gallery_inversion, gallery_translation_page
from benchmarks.gallery_recipes import Recipe
from ganfuse.bench import records

RESULTS = gallery.HERE / "results" / "gallery-translation-cpu.jsonl"
_SMALL = "--resolution 32 --set width=16"
_PAIRS = "--paired --split test"
_ROWS = "--num 6 --split test --columns 12 --seed 1 --scale 2"

RECIPES: dict[str, Recipe] = {
    "cyclegan": Recipe(
        "CycleGAN",
        "Clothing and its edges, unpaired. Three residual blocks, patches of 34 px, no identity loss, resize "
        "convolutions against checkerboards, twice the usual learning rate, which falls to 0 over the last half.",
        steps=600,
        train=f"--batch-size 8 {_SMALL} --set blocks=3 --set discriminator_layers=2 --set lambda_identity=0 "
        "--set upsampling=resize --set generator_lr=4e-4 --set discriminator_lr=4e-4 --set constant_epochs=0.08 "
        "--set decay_epochs=0.08",
        factor=2,
        sample=_ROWS,
        evaluate=_PAIRS,
        data="fashion-edges",
    ),
    "csgan": Recipe(
        "CSGAN",
        "The same networks on pairs. A picture's translation is also held to what comes back from the cycle, with a "
        "weight of 5: with the paper's 30 both translators stayed at one picture for all in so short a run.",
        steps=500,
        train=f"--batch-size 8 {_SMALL} --set blocks=3 --set discriminator_layers=2 --set upsampling=resize "
        "--set lambda_synthesised=5 --set generator_lr=4e-4 --set discriminator_lr=4e-4 "
        "--set constant_epochs=0.035 --set decay_epochs=0.035",
        factor=2,
        sample=_ROWS,
        evaluate=_PAIRS,
        data="fashion-edges",
    ),
    "dualgan": Recipe(
        "DualGAN",
        "U-Nets and Wasserstein critics, which see the whole image, with a gradient penalty.",
        steps=700,
        train=f"--batch-size 8 {_SMALL} --set generator_lr=2e-4 --set discriminator_lr=2e-4 --set lambda_a=100 "
        "--set lambda_b=100",
        factor=1.5,
        sample=_ROWS,
        evaluate=_PAIRS,
        data="fashion-edges",
    ),
    "discogan": Recipe(
        "DiscoGAN",
        "Digits and thick digits. Nothing but adversarial losses and the way back ties a digit to its translation: a 7 "
        "may well become a 6, and a 7 again.",
        steps=700,
        train=f"--batch-size 32 {_SMALL} --set generator_lr=5e-4 --set discriminator_lr=5e-4 "
        "--set curriculum_steps=200",
        factor=2,
        sample="--num 6 --columns 12 --seed 1 --scale 2",
        evaluate="--paired",
        data="digits-thick",
    ),
    "unit": Recipe(
        "UNIT",
        "Two variational autoencoders whose innermost blocks are one.",
        steps=350,
        train=f"--batch-size 4 {_SMALL} --set blocks=2 --set discriminator_scales=1 --set generator_lr=4e-4 "
        "--set discriminator_lr=4e-4",
        factor=1.5,
        sample=_ROWS,
        evaluate=_PAIRS,
        data="fashion-edges",
    ),
    "ugatit": Recipe(
        "U-GAT-IT",
        "The light model with two blocks. Beside each picture: where the translator looks, as the sum of the attended "
        "maps.",
        steps=300,
        train=f"--batch-size 4 {_SMALL} --set light=true --set blocks=2 --set generator_lr=4e-4 "
        "--set discriminator_lr=4e-4 --set constant_steps=150 --set decay_steps=150",
        factor=1.5,
        sample="--num 6 --split test --columns 16 --seed 1 --scale 2",
        evaluate=_PAIRS,
        data="fashion-edges",
    ),
    "cogan": Recipe(
        "CoGAN",
        "Joint samples: the generator draws both pictures of a pair from one latent, and was shown no pair. Rows of "
        "digits above rows of their thick partners. With `num_classes` a classifier that learns from the labels of the "
        "digits is adapted to the thick ones.",
        steps=350,
        train="--batch-size 64 --resolution 28 --set width=32 --set num_classes=10 --set ema_decay=0.99 "
        "--set generator_lr=4e-4 --set discriminator_lr=4e-4",
        factor=2,
        sample="--num 48 --columns 16 --scale 2",
        data="digits-thick",
    ),
    "bigan": Recipe(
        "BiGAN",
        "Rows of pictures that were not trained on above what the generator makes of the encoder's latents.",
        steps=1500,
        train="--batch-size 128 --resolution 28 --set width=512 --set latent_regressor=0.25 --set constant_epochs=2 "
        "--set decay_epochs=1.2",
        factor=2,
        sample="--reconstruct --num 32 --columns 16 --split test --scale 2",
        evaluate="--split test",
    ),
}


def main(arguments: list[str]) -> int:
    """Runs what is asked for; 1 if a system did not reach its factor or failed."""
    if "--page" in arguments:
        gallery_translation_page.write(RECIPES, records.read(RESULTS))
        return 0
    if arguments[:1] == ["inversion"]:
        return gallery_inversion.main(arguments[1:], RESULTS)
    own = ["--recipes", __file__, "--out", str(RESULTS)]
    return gallery.main([*own, *arguments])


if __name__ == "__main__":
    print(shlex.join(sys.argv), flush=True)
    sys.exit(main(sys.argv[1:]))
