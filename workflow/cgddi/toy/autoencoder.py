"""A tiny AutoencoderKL (f = 4, four latent channels): linear by construction, then fine-tuned.

Closed form.  Every residual branch and attention output starts at zero, so that the network is its
convolutions alone; down-sampling averages 2 x 2 pixels, up-sampling is nearest plus a [1 2 1] tent.  The
last GroupNorm of encoder and decoder is frozen by constant channels (+K and -K in each group dominate its
variance), and SiLU is undone by silu(x) - silu(-x) = x.  Three latents are the colour principal
components of 4 x 4 block means; the fourth starts small and random and is learned.
"""

import copy
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL

CONSTANT = 6.0
"""K: value of the constant channels, large beside signals in [-1, 1]."""
BATCH, RATE, NOISE, ANCHOR = 16, 4e-4, 0.05, 0.01
"""Of the fine-tuning: photos a step, learning rate, noise (in latent deviations) added before decoding, so that small errors of
sampling decode well, and weight of how far latents stray from where they started."""


def new_autoencoder() -> AutoencoderKL:
    """An AutoencoderKL for 64 px photos with 16 x 16 x 4 latents, randomly initialised."""
    blocks = 3
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.0,
    )


def colour_axes(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (3,) and unit-variance principal axes (3, 3), rows first to last, of (N, 3, H, W) images' block means."""
    pixels = torch.nn.functional.avg_pool2d(images, 4).permute(1, 0, 2, 3).flatten(1).double()
    mean = pixels.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(pixels))
    order = values.argsort(descending=True)
    return mean.float(), (vectors[:, order].T / values[order].clamp_min(1e-8).sqrt()[:, None]).float()


def _identity(conv: torch.nn.Conv2d, channels: int) -> None:
    """Make a convolution pass the first ``channels`` channels through and zero the rest."""
    torch.nn.init.zeros_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    middle = conv.kernel_size[0] // 2
    for channel in range(channels):
        conv.weight[channel, channel, middle, middle] = 1.0


def _seed_spare(conv: torch.nn.Conv2d, first: int) -> None:
    """Give the output channels from ``first`` on a small random start, so that training can use them."""
    torch.nn.init.normal_(conv.weight[first:], std=0.5 / conv.weight[0].numel() ** 0.5)
    conv.weight[first:, :12] = 0.0


def _silence_branches(model: AutoencoderKL, carried: int) -> None:
    """Zero the last layer of every residual and attention branch; shortcuts pass ``carried`` channels."""
    for module in model.modules():
        if type(module).__name__ == "ResnetBlock2D":
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _identity(module.conv_shortcut, carried)
                _seed_spare(module.conv_shortcut, carried)
        elif type(module).__name__ == "Attention":
            torch.nn.init.zeros_(module.to_out[0].weight)
            torch.nn.init.zeros_(module.to_out[0].bias)


def _linear_head(norm: torch.nn.GroupNorm, conv: torch.nn.Conv2d, matrix: torch.Tensor, bias: torch.Tensor) -> None:
    """Make norm, SiLU and conv compute ``matrix @ signal + bias`` of the carried channels (see ``_entry``)."""
    size = norm.num_channels // norm.num_groups
    scale = (2.0 / size) ** 0.5 * CONSTANT
    torch.nn.init.zeros_(norm.bias)
    torch.nn.init.constant_(norm.weight, 1.0)
    torch.nn.init.normal_(conv.weight, std=0.02)
    torch.nn.init.zeros_(conv.bias)
    conv.weight[: len(matrix)] = 0.0
    conv.bias[: len(matrix)] = bias
    for signal in range(3):
        plus, minus = signal * size, signal * size + 1
        norm.weight[[plus, minus]] = scale
        norm.weight[[plus + 2, plus + 3]] = 0.0
        conv.weight[: len(matrix), plus, 1, 1] = matrix[:, signal]
        conv.weight[: len(matrix), minus, 1, 1] = -matrix[:, signal]


def _entry(conv: torch.nn.Conv2d, rows: torch.Tensor, offset: torch.Tensor, size: int) -> None:
    """Write x, -x, +K, -K for three signals ``rows @ input + offset`` into the first channels of three groups."""
    torch.nn.init.normal_(conv.weight, std=0.3 / conv.weight[0].numel() ** 0.5)
    torch.nn.init.zeros_(conv.bias)
    middle = conv.kernel_size[0] // 2
    for signal in range(3):
        first = signal * size
        conv.weight[first : first + 4] = 0.0
        for channel, sign in ((first, 1.0), (first + 1, -1.0)):
            conv.weight[channel, : rows.shape[1], middle, middle] = sign * rows[signal]
            conv.bias[channel] = sign * offset[signal]
        conv.bias[first + 2], conv.bias[first + 3] = CONSTANT, -CONSTANT


@torch.no_grad()
def closed_form(model: AutoencoderKL, images: torch.Tensor) -> None:
    """Set the weights in closed form from (N, 3, 64, 64) images in [-1, 1]; ``model`` is changed in place."""
    encoder, decoder = model.encoder, model.decoder
    mean, axes = colour_axes(images)
    width, deep = encoder.conv_in.out_channels, encoder.conv_norm_out.num_channels
    _silence_branches(model, width)
    # The encoder's carried channels sit at the places that the last norm's groups ask for.
    size = deep // encoder.conv_norm_out.num_groups
    _entry(encoder.conv_in, torch.eye(3), torch.zeros(3), 4)
    for block in encoder.down_blocks:
        for sampler in block.downsamplers or ():
            conv = sampler.conv
            channels = conv.out_channels
            torch.nn.init.normal_(conv.weight, std=0.02)
            torch.nn.init.zeros_(conv.bias)
            conv.weight[:12] = 0.0
            conv.weight[:, :12] = 0.0  # spare channels read no constant: it would swamp them
            for channel in range(min(12, channels)):
                conv.weight[channel, channel, :2, :2] = 0.25
    _spread(encoder.down_blocks[-1].resnets[0].conv_shortcut, size)
    _linear_head(encoder.conv_norm_out, encoder.conv_out, axes, -axes @ mean)
    encoder.conv_out.weight[3] *= 5.0  # the fourth latent: small and random
    encoder.conv_out.weight[4:] = 0.0
    # The decoder undoes the axes at its entry and carries RGB.
    size = decoder.conv_in.out_channels // 4
    inverse = torch.linalg.inv(axes)
    _entry(decoder.conv_in, torch.cat([inverse, torch.zeros(3, 1)], 1), mean, 4)
    tent = torch.tensor([1.0, 2.0, 1.0]) / 4.0
    for block in decoder.up_blocks:
        for sampler in block.upsamplers or ():
            conv = sampler.conv
            torch.nn.init.normal_(conv.weight, std=0.02)
            torch.nn.init.zeros_(conv.bias)
            conv.weight[:12] = 0.0
            for channel in range(12):
                conv.weight[channel, channel] = torch.outer(tent, tent)
    _linear_head(decoder.conv_norm_out, decoder.conv_out, torch.eye(3), torch.zeros(3))
    # Quantisation layers: identity on the means, no noise.
    torch.nn.init.zeros_(model.quant_conv.weight)
    torch.nn.init.zeros_(model.quant_conv.bias)
    model.quant_conv.weight[:4, :4, 0, 0] = torch.eye(4)
    model.quant_conv.bias[4:] = -20.0
    _identity(model.post_quant_conv, 4)


def _spread(conv: torch.nn.Conv2d, size: int) -> None:
    """Move the carried channels 4 s + k to s size + k, where the encoder's last norm expects them."""
    _seed_spare(conv, 0)
    conv.weight[:, :12] = 0.0
    for signal in range(3):
        for part in range(4):
            conv.weight[signal * size + part] = 0.0
            conv.weight[signal * size + part, signal * 4 + part] = 1.0


def _hold_constants(model: AutoencoderKL) -> list[torch.utils.hooks.RemovableHandle]:
    """Stop gradients that would move the constant channels, or let a convolution read them raw.

    Raw constants are ten times the signal, so a small step on a weight that reads them is a large one.
    """
    narrow = [4 * signal + part for signal in range(3) for part in (2, 3)]
    size = model.encoder.conv_norm_out.num_channels // model.encoder.conv_norm_out.num_groups
    wide = [size * signal + part for signal in range(3) for part in (2, 3)]
    handles = []

    def hold(parameter: torch.Tensor, rows: list[int], columns: list[int]) -> None:
        keep = torch.ones_like(parameter)
        keep[rows] = 0.0
        if keep.ndim > 1:
            keep[:, columns] = 0.0
        handles.append(parameter.register_hook(lambda gradient: gradient * keep))

    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        late = name.startswith(("encoder.down_blocks.2", "encoder.mid_block"))
        rows = wide if late else narrow
        if name.endswith(("samplers.0.conv", "conv_shortcut")):
            hold(module.weight, rows, narrow)
            hold(module.bias, rows, [])
        elif name.endswith("conv2") or name in ("encoder.conv_in", "decoder.conv_in"):
            hold(module.weight, rows, [])
            hold(module.bias, rows, [])
    return handles


def finetune(
    model: AutoencoderKL,
    images: torch.Tensor,
    lesions: torch.Tensor,
    steps: int,
    generator: torch.Generator,
    report: Callable[[int, float], None],
) -> None:
    """Fine-tune encoder and decoder together on uint8 (N, 64, 64, 3) images, lesion pixels weighted three-fold.

    ``report(step, psnr)`` is called every 100 steps with the running PSNR in dB.
    """
    device = next(model.parameters()).device
    parameters = [p for name, p in model.named_parameters() if not name.startswith(("quant_conv", "post_quant_conv"))]
    reference = copy.deepcopy(model.encoder).requires_grad_(False)
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.0, betas=(0.9, 0.99))
    warm = min(0.2, 100 / (steps + 1))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1, pct_start=warm)
    running, handles = None, _hold_constants(model)
    for step in range(1, steps + 1):
        pick = torch.randint(len(images), (BATCH,), generator=generator)
        x = to_signal(images[pick]).to(device)
        weight = 1.0 + 2.0 * lesions[pick].to(device)[:, None].float()
        latent = model.encode(x).latent_dist.mean
        jitter = torch.randn(latent.shape, generator=generator).to(device)
        decoded = model.decode(latent + NOISE * latent.detach().std((0, 2, 3), keepdim=True) * jitter).sample
        error = (decoded - x) ** 2
        stray = latent[:, :3] - reference(x)[:, :3]
        loss = ANCHOR * stray.square().mean() + (weight * (error + 1e-5).sqrt()).mean() + 10.0 * (weight * error).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        value = float(error.mean().detach())
        running = value if running is None else 0.95 * running + 0.05 * value
        if step % 100 == 0:
            report(step, -10.0 * torch.log10(torch.tensor(running / 4.0)).item())
    for handle in handles:
        handle.remove()


@torch.no_grad()
def standardise(model: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold an affine map into the quantisation layers, so that each latent has mean 0 and deviation 1."""
    latent = encode_all(model, images).to(model.quant_conv.weight)
    mean, deviation = latent.mean((0, 2, 3)), latent.std((0, 2, 3)).clamp_min(1e-4)
    model.post_quant_conv.bias += model.post_quant_conv.weight[:, :, 0, 0] @ mean
    model.post_quant_conv.weight *= deviation[None, :, None, None]
    model.quant_conv.weight[:4] /= deviation[:, None, None, None]
    model.quant_conv.bias[:4] = (model.quant_conv.bias[:4] - mean) / deviation


def to_signal(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


@torch.no_grad()
def encode_all(model: AutoencoderKL, images: torch.Tensor, batch_size: int = 128) -> torch.Tensor:
    """Latent means (N, 4, 16, 16), float32 and on the CPU, of uint8 (N, 64, 64, 3) images."""
    device = next(model.parameters()).device
    parts = [
        model.encode(to_signal(part).to(device)).latent_dist.mean.float().cpu() for part in images.split(batch_size)
    ]
    return torch.cat(parts)


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean PSNR in dB of decoding the latents of uint8 (N, 64, 64, 3) images."""
    latents = encode_all(model, images)
    device = next(model.parameters()).device
    found = []
    for part, latent in zip(images.split(128), latents.split(128), strict=True):
        decoded = model.decode(latent.to(device)).sample.float().cpu().clamp(-1, 1)
        error = ((decoded - to_signal(part)) ** 2).mean((1, 2, 3)) / 4.0
        found.append(-10.0 * torch.log10(error.clamp_min(1e-10)))
    return float(torch.cat(found).mean())
