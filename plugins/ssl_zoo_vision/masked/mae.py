"""MAE: most patches of an image are hidden, and reconstructed from the few visible ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_zoo import CropOptions, Encoder, Field, ImageSpec, Losses, Rng, Task, Unsuitable, UserError
from ssl_zoo.nn import full_precision, output_shape
from ssl_zoo.sizes import Size, height_width
from ssl_zoo.views.masks import random_places

Pair = tuple[int, int]


def patchify(x: Tensor, patch: Pair) -> Tensor:
    """Split images [B, C, H, W] into patches [B, N, P] of p × q pixels, row by row; P = C·p·q."""
    return F.unfold(x, patch, stride=patch).transpose(1, 2)


def unpatchify(patches: Tensor, patch: Pair, size: Size) -> Tensor:
    """Join patches [B, N, P] into images [B, C, *size]; inverse of `patchify`."""
    return F.fold(patches.transpose(1, 2), height_width(size), patch, stride=patch)


def take(patches: Tensor, places: Tensor) -> Tensor:
    """Return the patches [B, K, P] at the positions `places` [B, K] of each image."""
    return torch.take_along_dim(patches, places.unsqueeze(2), 1)


def put(patches: Tensor, places: Tensor, new: Tensor) -> Tensor:
    """Return patches [B, N, P] with those at `places` [B, K] replaced by `new` [B, K, P]."""
    return patches.scatter(1, places.unsqueeze(2).expand_as(new), new)


def moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation [B, N, 1] of each patch [B, N, P].

    The deviation is at least 1e-3, so that a flat patch is normalised to 0 rather than to noise.
    """
    variance, mean = torch.var_mean(patches, 2, keepdim=True)
    return mean, (variance + 1e-6).sqrt()


def fit_to_tokens(encoder: Encoder, spec: ImageSpec, patch: Pair) -> None:
    """Freeze the parameters that no token depends on, such as a pooling head or a norm after pooling.

    Raises:
        Unsuitable: the backbone cannot leave patches out, or a token depends on other patches.
    """
    shape = spec.example(1).shape
    x = torch.linspace(-1, 1, shape.numel()).view(shape).requires_grad_()
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    training = encoder.training
    encoder.eval()
    try:
        tokens = encoder.tokens(x, torch.zeros(1, 1, dtype=torch.long))  # the first patch's, [1, 1, d]
    except Unsuitable as error:
        raise Unsuitable(f"backbone.name: {error}") from error
    finally:
        encoder.train(training)
    of_image, *of_parameters = torch.autograd.grad(tokens[0, 0, 0], [x, *parameters], allow_unused=True)
    if patchify(of_image, patch)[0, 1:].any():
        raise Unsuitable(
            "backbone.name: its patches overlap or come from convolutions, so visible ones reveal "
            "hidden ones; choose a backbone with plain patches, such as --backbone vit_small_patch16_224"
        )
    for parameter, gradient in zip(parameters, of_parameters, strict=True):
        parameter.requires_grad_(gradient is not None)


class Decoder(nn.Module):
    """A small transformer from the tokens of the visible patches to the pixels of all (section 3).

    Args:
        tokens: d, the width of the encoder's tokens.
        pixels: P, the number of values in a patch.
        grid: rows and columns of patches.
        width: D, the width of the blocks; 32 per attention head, as in the paper.
        depth: the number of blocks.
    """

    positions: Tensor

    def __init__(self, tokens: int, pixels: int, grid: Pair, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(tokens, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("positions", build_sincos2d_pos_embed(list(grid), width))  # [N, D]
        self.blocks = nn.Sequential(*(Block(width, width // 32, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, pixels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the pixels [B, N, P] of all positions, from the tokens [B, K, d] of visible ones."""
        embedded = self.embed(tokens)  # [B, K, D]
        masked = self.mask_token.to(embedded.dtype).expand(len(embedded), *self.positions.shape)
        x = put(masked, visible, embedded) + self.positions  # [B, N, D]
        pixels: Tensor = self.pixels(self.norm(self.blocks(x)))
        return pixels


class MAE(Task):
    """Three patches in four are hidden, and a decoder reconstructs them from the others' tokens."""

    name = "mae"
    paper = "He et al. 2021, Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377"
    family = "masked"
    passes = 1
    prerequisites = "a ViT"
    recipe = {
        "train": {
            "optimizer": "adamw",
            "optimizer_options": {"betas": [0.9, 0.95]},
            "lr": 3e-3,
            "weight_decay": 0.05,
            "warmup": 0.1,
        },
        # For small images. The last norm is before the pooling, where the decoder sees it, and there
        # is no class token, which the loss would not train.
        "backbone": {
            "name": "vit_tiny_patch16_224",
            "options": {
                **{"patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4},
                **{"class_token": False, "global_pool": "avg", "fc_norm": False},
            },
        },
    }

    class Options(CropOptions):
        """MAE's options."""

        mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of patches that are hidden")
        normalise_targets: bool = Field(
            True, description="normalise each target patch by its own mean and deviation"
        )
        decoder_width: int = Field(
            128, ge=32, multiple_of=32, description="width of the decoder; the paper's is 512"
        )
        decoder_depth: int = Field(2, ge=1, description="blocks of the decoder; the paper's has 8")
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        _, width, *grid = output_shape(encoder, encoder.feature_map, spec)
        rows, columns = grid
        if spec.height % rows or spec.width % columns:
            divisors = " and ".join(map(str, dict.fromkeys((spec.height, spec.width))))
            raise UserError(
                f"backbone.options.patch_size: {rows} × {columns} patches do not divide images of "
                f"{spec.height} × {spec.width}; choose among the divisors of {divisors}"
            )
        self.patch = spec.height // rows, spec.width // columns
        self.places, pixels = rows * columns, spec.channels * self.patch[0] * self.patch[1]  # N, P
        fit_to_tokens(encoder, spec, self.patch)
        if min(self.places, pixels) < 2:
            raise UserError(
                f"backbone.options.patch_size: patches of {self.patch[0]} × {self.patch[1]} leave "
                f"nothing to reconstruct in images of {spec.height} × {spec.width}; choose others"
            )
        hidden = round(options.mask_ratio * self.places)
        self.hidden = min(max(hidden, 1), self.places - 1)  # N - K
        size = options.decoder_width, options.decoder_depth
        self.decoder = Decoder(width, pixels, (rows, columns), *size)
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W], and the positions visible [B, K] and hidden [B, N - K]."""
        x = self.augment(batch, rng)
        return x, *random_places(len(x), self.places, self.hidden, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean squared error over the hidden patches; about 1 if it predicts their means."""
        x, visible, hidden = views
        target = take(patchify(x, self.patch), hidden)  # [B, N - K, P]
        if self.options.normalise_targets:
            mean, deviation = moments(target)
            target = (target - mean) / deviation
        return Losses(F.mse_loss(self.predict(x, visible, hidden), target))

    def predict(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Reconstruct the hidden patches [B, N - K, P] from the visible ones."""
        pixels = self.decoder(self.encoder.tokens(x, visible), visible)
        return full_precision(take(pixels, hidden))

    def features(self, x: Tensor) -> Tensor:
        """Return the mean of the patch tokens [B, d]; the backbone's own pooling is not trained."""
        return self.exported_encoder.feature_map(x).flatten(2).mean(2)

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image and the input of the network."""
        x, _, hidden = views
        patches = patchify(x, self.patch)
        return {"image": x, "input": self.picture(patches, hidden, 0 * take(patches, hidden))}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the reconstruction; normalised targets are shown with the true mean and deviation."""
        x, visible, hidden = views
        patches, painted = patchify(x, self.patch), self.predict(x, visible, hidden)
        if self.options.normalise_targets:
            mean, deviation = moments(take(patches, hidden))
            painted = painted * deviation + mean
        return {"painted": self.picture(patches, hidden, painted)}

    def picture(self, patches: Tensor, places: Tensor, new: Tensor) -> Tensor:
        """Return the images [B, C, H, W] of `patches` with some of them replaced."""
        return unpatchify(put(patches, places, new), self.patch, self.spec.size)
