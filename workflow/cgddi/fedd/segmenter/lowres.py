"""The first linear layer of a pixel classifier at the features' own resolution.

FEDD upsamples all feature maps to the photo's size, joins them and feeds each pixel's vector to an MLP (Carrión and Norouzi
2023). Bilinear upsampling acts on each channel alone with weights that sum to one, so it commutes with the linear layer:
W up(x) + b = up(W x) + b, and W of joined maps is the sum of W's parts on each. Only the layer's few outputs are upsampled; the
joined maps (32 GB for 120 images of 256 px and 1024 channels) never exist.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional


def stack(maps: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """The maps of several images, block by block, stored so that one place's channels lie together (what sampling reads).

    Args:
        maps: per image its maps [(C_k, h_k, w_k)], in the order of the blocks.

    Returns:
        Per block (N, C_k, h_k, w_k) in channels-last memory; the number type is kept.
    """
    return [torch.stack(list(block)).contiguous(memory_format=torch.channels_last) for block in zip(*maps, strict=True)]


def project(weight: torch.Tensor, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each map through its share of the layer's weight.

    Args:
        weight: (out, sum of C_k) of the linear layer whose input is the maps' channels, joined in order.
        maps: [(N, C_k, h_k, w_k)], any floating type.

    Returns:
        [(N, out, h_k, w_k)] in the weight's type.

    Raises:
        ValueError: the channels do not add up to the weight's.
    """
    channels = [block.shape[1] for block in maps]
    if sum(channels) != weight.shape[1]:
        raise ValueError(f"maps of {channels} channels for a layer with {weight.shape[1]} inputs")
    parts = torch.split(weight, channels, dim=1)
    return [functional.conv2d(block.to(part), part[:, :, None, None]) for block, part in zip(maps, parts, strict=True)]


def _neighbours(places: torch.Tensor, cells: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two cells on either side of each pixel and the second one's weight, as `interpolate(align_corners=False)` has them."""
    at = ((places.double() + 0.5) * (cells / size) - 0.5).clamp(min=0)
    low = at.long().clamp(max=cells - 1)
    return low, (low + 1).clamp(max=cells - 1), (at - low).float()


def upsample(blocks: Sequence[torch.Tensor], size: int, rows: tuple[int, int] | None = None) -> torch.Tensor:
    """Sum of maps, each brought to (size, size) bilinearly (align_corners=False), or only rows first..last of it.

    Args:
        blocks: [(N, D, h_k, w_k)] of one D.
        size: side of the result in px.
        rows: (first, last), last not included; None: all.

    Returns:
        (N, D, last - first, size).
    """
    first, last = rows or (0, size)
    total = None
    for block in blocks:
        if (first, last) != (0, size):
            low, high, share = _neighbours(torch.arange(first, last, device=block.device), block.shape[2], size)
            block = torch.lerp(block[:, :, low], block[:, :, high], share.to(block)[:, None])
            shape = (last - first, size)  # as many rows as there are: only columns are interpolated now
        else:
            shape = (size, size)
        wide = functional.interpolate(block, shape, mode="bilinear", align_corners=False)
        total = wide if total is None else total.add_(wide)
    return total


def strips(
    weight: torch.Tensor, bias: torch.Tensor | None, maps: Sequence[torch.Tensor], size: int, height: int = 32
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The layer applied to all pixels of the upsampled, joined maps, without making those, in strips of `height` rows.

    The projection is done once; strips bound the memory.

    Args:
        weight: (out, sum of C_k).
        bias: (out,) or None.
        maps: [(N, C_k, h_k, w_k)], any floating type.
        size: side in px to which the maps are brought.

    Yields:
        (slice of rows, (N, out, rows, size)).
    """
    projected = project(weight, maps)
    for first in range(0, size, height):
        last = min(first + height, size)
        found = upsample(projected, size, (first, last))
        yield slice(first, last), found if bias is None else found.add_(bias[:, None, None])


def sample(
    maps: Sequence[torch.Tensor], image: torch.Tensor, row: torch.Tensor, column: torch.Tensor, size: int
) -> torch.Tensor:
    """Features of single pixels of the upsampled maps, gathered from the four cells around each: what training reads.

    Args:
        maps: [(N, C_k, h_k, w_k)]; as `stack` stores them; others are copied in each call. Projected maps work as well.
        image: (P,) which of the N images.
        row: (P,) pixel row, 0 to size - 1.
        column: (P,) pixel column.
        size: side in px to which the maps would be brought.

    Returns:
        (P, sum of C_k) float32: the columns the layer's weight expects.
    """
    found = []
    for block in maps:
        _, channels, height, width = block.shape
        cells = block.permute(0, 2, 3, 1).reshape(-1, channels)  # a view of maps from `stack`, else a copy
        top, bottom, down = _neighbours(row, height, size)
        left, right, across = _neighbours(column, width, size)
        upper, lower = (
            torch.lerp(
                cells.index_select(0, at + left).float(), cells.index_select(0, at + right).float(), across[:, None]
            )
            for at in ((image * height + top) * width, (image * height + bottom) * width)
        )
        found.append(torch.lerp(upper, lower, down[:, None]))
    return torch.cat(found, dim=1)
