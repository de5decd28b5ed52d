"""New tokens: rows appended beside a frozen token table, so that training touches them and nothing else."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cgddi.core.errors import UserError
from cgddi.diffusion.weights import check_base, read_tensors


def names_of(token: str, vectors: int) -> list[str]:
    """The tokenizer entries of a token of several vectors: `<t>`, `<t>_1`, ... (diffusers' convention)."""
    return [token, *(f"{token}_{i}" for i in range(1, vectors))]


class TokenRows(nn.Module):
    """A frozen (V, D) token table with N rows appended as ids V, V+1, ...; stands in for the encoder's `nn.Embedding`.

    Only `rows` (N, D) has a gradient: the whole table is neither copied nor given optimizer state, as the usual script does.
    """

    def __init__(self, table: nn.Embedding, rows: torch.Tensor):
        super().__init__()
        self.table = table
        self.rows = nn.Parameter(rows.to(table.weight.device, torch.float32), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:
        """The table's own weight (some callers ask for its type and device)."""
        return self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, L) -> embeddings (B, L, D)."""
        size = self.table.num_embeddings
        known = self.table(ids.clamp(max=size - 1))
        new = self.rows[(ids - size).clamp(min=0)].to(known.dtype)
        return torch.where((ids >= size).unsqueeze(-1), new, known)


def table_of(encoder: nn.Module) -> nn.Module:
    """The token table of a CLIP text encoder (transformers >= 5.6 has no `.text_model` in CLIPTextModel)."""
    return _embeddings(encoder).token_embedding


def _embeddings(encoder: nn.Module) -> nn.Module:
    return (encoder.text_model if hasattr(encoder, "text_model") else encoder).embeddings


def add_tokens(tokenizer, encoder: nn.Module, token: str, rows: torch.Tensor) -> TokenRows:
    """Give tokenizer and encoder a token of `rows.shape[0]` vectors.

    Args:
        tokenizer: a CLIP tokenizer; changed in place.
        encoder: its text encoder; its token table is wrapped in `TokenRows` once, and grown on later calls.
        token: as written in prompts.
        rows: (vectors, D) float.

    Raises:
        UserError: the tokenizer knows the token already, or D differs.
    """
    place = _embeddings(encoder)
    table = place.token_embedding
    width = table.weight.shape[1]
    if rows.shape[1] != width:
        raise UserError(
            f"token {token}: rows of {rows.shape[1]} numbers, but the text encoder has {width}. Wrong base model?"
        )
    names = names_of(token, rows.shape[0])
    known = tokenizer.get_vocab()  # CLIP writes a whole word as its lowercase letters and "</w>"
    present = [name for name in names if name in known or f"{name.lower()}</w>" in known]
    if present:
        raise UserError(
            f"token {present[0]!r} is in the base model's vocabulary. Choose another token in the disease sheet."
        )
    old = table if isinstance(table, TokenRows) else TokenRows(table, rows.new_zeros((0, width)))
    start = old.table.num_embeddings + len(old.rows)
    tokenizer.add_tokens(names)
    if tokenizer.convert_tokens_to_ids(names) != list(range(start, start + len(names))):
        # Ids beyond the table that the tokenizer already used up (tokenizer larger than table) would shift the rows.
        raise UserError(f"tokenizer and text encoder disagree on the vocabulary's size ({len(tokenizer)} and {start}).")
    place.token_embedding = TokenRows(old.table, torch.cat([old.rows.detach(), rows.to(old.rows)]))
    return place.token_embedding


def expand(prompt: str, tokens: dict[str, int]) -> str:
    """Spell each multi-vector token out in a prompt: `<t>` -> `<t> <t>_1` (diffusers' `maybe_convert_prompt`)."""
    for token, vectors in tokens.items():
        if vectors > 1:
            prompt = prompt.replace(token, " ".join(names_of(token, vectors)))
    return prompt


def start_rows(tokenizer, encoder: nn.Module, word: str, vectors: int) -> torch.Tensor:
    """Rows (vectors, D) that start at the embedding of a known word.

    Raises:
        UserError: the word is not one token of this base model.
    """
    ids = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id and word not in tokenizer.get_vocab():
        raise UserError(f"init_token {word!r} is {len(ids)} tokens of this base model, not one. Choose a simpler word.")
    return table_of(encoder).weight[ids[0]].detach().float().repeat(vectors, 1)


def read_embedding(
    path: str | Path,
    token: str | None = None,
    base: str | None = None,
    widths: Sequence[int] = (),
    rename: bool = False,
) -> tuple[str, list[torch.Tensor]]:
    """A learned token: its name and, per text encoder, its rows (vectors, D).

    Args:
        path: `learned_embeds.safetensors`: {token: rows}, or {"clip_l": rows, "clip_g": rows} for two encoders (SDXL).
        token: the name to use; needed when the file does not hold it.
        base: digest of the base model in use, compared with the one the file names (see `check_base`).
        rename: `token` is a new name, whatever the file calls it.
        widths: D of the model's text encoders; empty compares nothing.

    Raises:
        UserError: the file is no such file, holds another token, or was trained on another base model.
    """
    tensors, metadata = read_tensors(path)
    check_base(path, metadata, base)
    tensors = {name: rows if rows.ndim == 2 else rows[None] for name, rows in tensors.items()}
    if set(tensors) == {"clip_l", "clip_g"}:
        name = token or metadata.get("token")
        rows: Sequence[torch.Tensor] = [tensors["clip_l"], tensors["clip_g"]]
    elif len(tensors) == 1:
        ((held, value),) = tensors.items()
        name, rows = token or held, [value]
    else:
        raise UserError(f"{path}: holds {sorted(tensors)[:4]}, not one token. Is it a textual-inversion file?")
    held = metadata.get("token") or next(iter(tensors))
    if token and not rename and held != token and ("token" in metadata or held.startswith("<")):
        raise UserError(
            f"{path}: holds the token {held}, but {token} is wanted. Give that concept's file, or write {held} as the concept's "
            "token in the disease sheet."
        )
    if not all(value.ndim == 2 and torch.isfinite(value).all() for value in rows):
        raise UserError(f"{path}: its rows are not finite numbers, (vectors, width). Train it again.")
    found = [value.shape[1] for value in rows]
    if widths and found != list(widths):
        raise UserError(
            f"{path}: a token of {' and '.join(map(str, found))} numbers, but the text encoder of this base model has "
            f"{' and '.join(map(str, widths))}. It was made for another base model: name that, or give another token."
        )
    if not name:
        raise UserError(f"{path}: does not say which token it holds. Train it again, or give the token.")
    return name, list(rows)
