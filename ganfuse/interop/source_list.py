"""The codebases whose checkpoints can be read, and which of their tensors are left out, and why."""

from ganfuse.interop.network import Ignored, Source

__all__ = ["SOURCES"]

_PLAYERS = ("generator", "discriminator")
_COUNT = Ignored(r"(.*\.)?num_batches_tracked", "a count that evaluation does not read")
_BIGGAN_NORMS = (
    Ignored(r"(.*\.)?sv\d+", "singular values, kept for logs only"),
    Ignored(r"(.*\.)?u[1-9]\d*", "vectors of further singular values, which are not part of the norm"),
    _COUNT,
)
_UGATIT = {
    "genA2B": "generator_ab",
    "genB2A": "generator_ba",
    "disGA": "discriminator_a.global_discriminator",
    "disGB": "discriminator_b.global_discriminator",
    "disLA": "discriminator_a.local_discriminator",
    "disLB": "discriminator_b.local_discriminator",
}

_LIST = (
    Source(
        "biggan-pytorch",
        "BigGAN-PyTorch (Brock): BigGAN, BigGAN-deep and SAGAN",
        _PLAYERS,
        "biggan_pytorch",
        _BIGGAN_NORMS,
    ),
    Source(
        "cyclegan-pix2pix",
        "pytorch-CycleGAN-and-pix2pix: ResNet generators and PatchGANs with instance normalisation",
        _PLAYERS,
        "cyclegan_pix2pix",
        (
            Ignored(r".*\.running_(mean|var)", "of instance normalisation, from PyTorch before 0.4, never used"),
            _COUNT,
        ),
    ),
    Source(
        "hf-biggan-deep",
        "pytorch-pretrained-BigGAN (Hugging Face): BigGAN-deep, converted from TF Hub",
        ("generator",),
        "hf_biggan_deep",
        keywords={"truncation": "whose tabulated statistics of batch normalisation to take, in (0, 1]; default 0.4"},
    ),
    Source(
        "progan",
        "pytorch_GAN_zoo (Facebook Research): ProGAN",
        (*_PLAYERS, "netG", "avgG", "netD"),
        "progan",
        places={"netG": "generator", "avgG": "generator", "netD": "discriminator"},
        keywords={"equalized": "whether weights are scaled when they are used (equalizedlR there); default True"},
    ),
    Source(
        "sagan",
        "Self-Attention-GAN (heykeetae): convolutional networks with two attention layers, 64 px",
        _PLAYERS,
        "sagan",
        (Ignored(r".*\.module\.weight_v", "the power method's v, which its next step computes from u"), _COUNT),
    ),
    Source(
        "studiogan",
        "PyTorch-StudioGAN: BigGAN (big_resnet) and BigGAN-deep (big_resnet_deep_legacy, big_resnet_deep_studiogan)",
        _PLAYERS,
        "studiogan",
        (_COUNT,),
    ),
    Source(
        "stylegan1-rosinality",
        "style-based-gan-pytorch (rosinality): StyleGAN",
        (*_PLAYERS, "g_running"),
        "stylegan1_rosinality",
        (
            Ignored(
                r"(generator\.)?progression\.\d+\.conv[12]\.\d\.weight(_flip)?",
                "the blur's filter, in a copy for each channel",
                compared=True,
            ),
            Ignored(
                r"(generator\.)?(progression|to_rgb|from_rgb)\.\d+\..*",
                "of levels above `resolution`, which training has not reached",
                compared=True,
            ),
        ),
        places={"generator": "generator", "g_running": "generator", "discriminator": "discriminator"},
        keywords={
            "resolution": "that training has reached; default: the largest whose biases are not all zero, as they "
            "begin",
        },
    ),
    Source(
        "stylegan2-ada",
        "stylegan2-ada-pytorch, and StyleGAN2 as stylegan3 saves it: state dicts and NVIDIA's pickles",
        (*_PLAYERS, "G", "G_ema", "D"),
        "stylegan2_ada",
        (Ignored(r"(.*\.)?resample_filter", "the filter of the taps 1, 3, 3, 1", compared=True),),
        places={"G": "generator", "G_ema": "generator", "D": "discriminator"},
        keywords={
            "conv_clamp": "limit of every convolution's result, None for none; default 256, as in its configurations",
            "group_size": "of the discriminator's minibatch standard deviation, None for the whole batch; default 4",
        },
    ),
    Source(
        "stylegan2-rosinality",
        "stylegan2-pytorch (rosinality): StyleGAN2, trained by it and converted from NVIDIA's",
        (*_PLAYERS, "g", "g_ema", "d"),
        "stylegan2_rosinality",
        (Ignored(r".*\.kernel", "the filter of the taps 1, 3, 3, 1", compared=True),),
        places={"g": "generator", "g_ema": "generator", "d": "discriminator"},
        companions={"latent_avg": "generator"},
        keywords={
            "group_size": "of the discriminator's minibatch standard deviation, None for the whole batch; default 4",
        },
    ),
    Source(
        "ugatit-pytorch",
        "UGATIT-pytorch: all six networks, full and light",
        (*_PLAYERS, *_UGATIT),
        "ugatit_pytorch",
        (Ignored(r"(gap_fc|gmp_fc)\.weight_[uv]", "a power method on a single row, whose norm is its length"),),
        places=_UGATIT,
    ),
    Source(
        "unetgan",
        "unetgan (Bosch Research): U-Net GAN",
        _PLAYERS,
        "unetgan",
        (
            *_BIGGAN_NORMS,
            Ignored(
                r"linear\..*", "a layer of the discriminator that its forward does not use", "linear_middle.weight"
            ),
        ),
    ),
)
SOURCES = {source.name: source for source in _LIST}
