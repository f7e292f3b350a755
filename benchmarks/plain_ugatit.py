"""U-GAT-IT as one writes it in plain PyTorch: what a benchmark of its training step compares with.

Padding and upsampling as layers of their own, AdaLIN and ILN by `torch.mean` and `torch.var`, the maps weighed by each
auxiliary classifier laid side by side, each layer's own `torch.nn.utils.spectral_norm`, every network called on every
batch by itself, and PyTorch's default Adam with rho clipped afterwards. Generated images are detached in the
discriminators' turn, and the discriminators frozen in the generators', which the authors' code leaves out: what is
compared is arithmetic and not an oversight.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ganfuse.engine.game import Batch
from ganfuse.models.ugatit import UGATITGame
from ganfuse.models.ugatit_networks import Discriminator, Generator


def _reflect_conv(like: nn.Conv2d) -> list[nn.Module]:
    side = (like.kernel_size[0] - 1) // 2
    bias = like.bias is not None
    conv = nn.Conv2d(like.in_channels, like.out_channels, like.kernel_size, like.stride, bias=bias)
    return [nn.ReflectionPad2d(side), conv]


class _ResidualBlock(nn.Module):
    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        features = like.conv1.out_channels
        first = [*_reflect_conv(like.conv1), nn.InstanceNorm2d(features), nn.ReLU(True)]
        self.layers = nn.Sequential(*first, *_reflect_conv(like.conv2), nn.InstanceNorm2d(features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _LayerInstanceNorm(nn.Module):
    """AdaLIN; with `affine` ILN."""

    def __init__(self, features: int, affine: bool) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.empty(1, features, 1, 1))
        self.gain = nn.Parameter(torch.empty(1, features, 1, 1)) if affine else None
        self.bias = nn.Parameter(torch.empty(1, features, 1, 1)) if affine else None

    def forward(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        instance = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
        layer = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        mixed = self.rho * instance + (1 - self.rho) * layer
        if gain is None or bias is None:
            return mixed * self.gain + self.bias
        return mixed * gain[:, :, None, None] + bias[:, :, None, None]


class _AdaLINBlock(nn.Module):
    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        features = like.conv1.out_channels
        self.conv1 = nn.Sequential(*_reflect_conv(like.conv1))
        self.norm1 = _LayerInstanceNorm(features, affine=False)
        self.conv2 = nn.Sequential(*_reflect_conv(like.conv2))
        self.norm2 = _LayerInstanceNorm(features, affine=False)

    def forward(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        h = torch.relu(self.norm1(self.conv1(x), gain, bias))
        return x + self.norm2(self.conv2(h), gain, bias)


class _Attention(nn.Module):
    def __init__(self, features: int, slope: float, spectral: bool) -> None:
        super().__init__()
        self.gap_fc = nn.Linear(features, 1, bias=False)
        self.gmp_fc = nn.Linear(features, 1, bias=False)
        self.conv = nn.Conv2d(2 * features, features, 1)
        self.slope, self.spectral = slope, spectral

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weighed, logits = [], []
        pooled = (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1))
        for fc, pool in zip((self.gap_fc, self.gmp_fc), pooled):
            weight = F.normalize(fc.weight, dim=1) if self.spectral else fc.weight
            logits.append(F.linear(pool.flatten(1), weight))
            weighed.append(x * weight[:, :, None, None])
        return F.leaky_relu(self.conv(torch.cat(weighed, 1)), self.slope), torch.cat(logits, 1)


class PlainGenerator(nn.Module):
    def __init__(self, like: Generator) -> None:
        super().__init__()
        encoder: list[nn.Module] = []
        for conv, _ in like.encoder:
            encoder += [*_reflect_conv(conv), nn.InstanceNorm2d(conv.out_channels), nn.ReLU(True)]
        self.encoder = nn.Sequential(*encoder, *map(_ResidualBlock, like.blocks))
        features = like.attention.features
        self.attention = _Attention(features, 0.0, spectral=False)
        self.style_grid = like.style_grid
        inputs = like.style[0].in_features
        self.style = nn.Sequential(
            nn.Linear(inputs, features, bias=False),
            nn.ReLU(True),
            nn.Linear(features, features, bias=False),
            nn.ReLU(True),
        )
        self.gain = nn.Linear(features, features, bias=False)
        self.bias = nn.Linear(features, features, bias=False)
        self.adalin_blocks = nn.ModuleList(map(_AdaLINBlock, like.adalin_blocks))
        decoder: list[nn.Module] = []
        for conv, _ in like.decoder:
            norm = _LayerInstanceNorm(conv.out_channels, affine=True)
            decoder += [nn.Upsample(scale_factor=2), *_reflect_conv(conv), norm, nn.ReLU(True)]
        self.decoder = nn.Sequential(*decoder, *_reflect_conv(like.output_conv), nn.Tanh())
        _take_over(self, like)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h, logits = self.attention(self.encoder(images))
        pooled = h if self.style_grid is None else F.adaptive_avg_pool2d(h, self.style_grid)
        style = self.style(pooled.flatten(1))
        gain, bias = self.gain(style), self.bias(style)
        for block in self.adalin_blocks:
            h = block(h, gain, bias)
        return self.decoder(h), logits


class PlainDiscriminator(nn.Module):
    def __init__(self, like: Discriminator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for conv in like.convs:
            pad, plain = _reflect_conv(conv)
            layers += [pad, spectral_norm(plain), nn.LeakyReLU(0.2, True)]
        self.convs = nn.Sequential(*layers)
        self.attention = _Attention(like.attention.features, 0.2, spectral=True)
        pad, plain = _reflect_conv(like.output_conv)
        self.output = nn.Sequential(pad, spectral_norm(plain))
        _take_over(self, like)

    def forward(self, images: Tensor) -> list[Tensor]:
        h, logits = self.attention(self.convs(images))
        return [self.output(h), logits]


class PlainUGATIT:
    """The networks with a game's weights, and its training step."""

    def __init__(self, game: UGATITGame) -> None:
        self.generator_ab, self.generator_ba = PlainGenerator(game.generator_ab), PlainGenerator(game.generator_ba)
        self.discriminators_a, self.discriminators_b = (
            nn.ModuleList([PlainDiscriminator(d) for d in (j.global_discriminator, j.local_discriminator)])
            for j in (game.discriminator_a, game.discriminator_b)
        )
        self.generators = nn.ModuleList([self.generator_ab, self.generator_ba])
        self.discriminators = nn.ModuleList([self.discriminators_a, self.discriminators_b])
        parameter = next(game.parameters())
        self.adam = {}
        for name, networks in (("discriminators", self.discriminators), ("generators", self.generators)):
            networks.to(parameter.device, parameter.dtype).train(game.training)
            self.adam[name] = torch.optim.Adam(networks.parameters(), 1e-4, (0.5, 0.999), weight_decay=1e-4)
        self.shapes = {player.name: [p.shape for p in player.parameters(game)] for player in game.players()}

    def discriminator_loss(self, batch: Batch, *, together: bool = False) -> Tensor:
        """`together` shows each discriminator real and generated images in one batch, as ours are, which is the same
        but for the power methods: these step at every call."""
        a, b = batch.images, batch.images_b
        fake_b, fake_a = self.generator_ab(a)[0].detach(), self.generator_ba(b)[0].detach()
        total = a.new_zeros(())
        for judges, real, fake in ((self.discriminators_a, a, fake_a), (self.discriminators_b, b, fake_b)):
            for judge in judges:
                if together:
                    pairs = [output.chunk(2) for output in judge(torch.cat([real, fake]))]
                else:
                    pairs = zip(judge(real), judge(fake))
                for one, other in pairs:
                    total = total + F.mse_loss(one, torch.ones_like(one)) + F.mse_loss(other, torch.zeros_like(other))
        return total

    def generator_loss(self, batch: Batch) -> Tensor:
        a, b = batch.images, batch.images_b
        fake_b, cam_a = self.generator_ab(a)
        fake_a, cam_b = self.generator_ba(b)
        cycle_a, cycle_b = self.generator_ba(fake_b)[0], self.generator_ab(fake_a)[0]
        same_a, cam_same_a = self.generator_ba(a)
        same_b, cam_same_b = self.generator_ab(b)
        total = 10 * (F.l1_loss(cycle_a, a) + F.l1_loss(cycle_b, b) + F.l1_loss(same_a, a) + F.l1_loss(same_b, b))
        for judges, fake in ((self.discriminators_a, fake_a), (self.discriminators_b, fake_b)):
            for judge in judges:
                for output in judge(fake):
                    total = total + F.mse_loss(output, torch.ones_like(output))
        for logits, target in ((cam_a, 1.0), (cam_b, 1.0), (cam_same_a, 0.0), (cam_same_b, 0.0)):
            wanted = torch.full_like(logits, target)
            total = total + 1000 * F.binary_cross_entropy_with_logits(logits, wanted)
        return total

    def step(self, batch: Batch) -> None:
        """Both players' moves."""
        self.adam["discriminators"].zero_grad()
        self.discriminator_loss(batch).backward()
        self.adam["discriminators"].step()
        self.adam["generators"].zero_grad()
        self.discriminators.requires_grad_(False)
        self.generator_loss(batch).backward()
        self.discriminators.requires_grad_(True)
        self.adam["generators"].step()
        for module in self.generators.modules():
            if isinstance(module, _LayerInstanceNorm):
                module.rho.data.clamp_(0, 1)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by player, and gradients, "PLAYER INDEX", in the order and shapes of the game's parameters."""
        found = {}
        for name, networks in (("discriminators", self.discriminators), ("generators", self.generators)):
            first = name == "discriminators"
            loss = self.discriminator_loss(batch, together=True) if first else self.generator_loss(batch)
            found[name] = loss.detach()
            gradients = torch.autograd.grad(loss, list(networks.parameters()))
            for index, (gradient, shape) in enumerate(zip(gradients, self.shapes[name], strict=True)):
                found[f"{name} {index}"] = gradient.view(shape)
        return found


def _take_over(plain: nn.Module, ours: nn.Module) -> None:
    """The parameters and buffers of ours, which come in the same order under other names."""
    for mine, theirs in ((plain.parameters(), ours.parameters()), (plain.buffers(), ours.buffers())):
        for target, source in zip(mine, theirs, strict=True):
            assert target.numel() == source.numel()
            target.data = source.detach().reshape(target.shape).clone()
