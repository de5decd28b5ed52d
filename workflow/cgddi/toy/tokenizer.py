"""A CLIP tokenizer whose byte-pair merges make one token of every word in the toy vocabulary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from transformers import CLIPTokenizer

MAX_TOKENS = 48
END = "</w>"


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins that byte-level BPE uses for bytes, in byte order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    stand_in = {byte: chr(byte) for byte in printable}
    spare = iter(range(256, 512))
    return [stand_in[byte] if byte in stand_in else chr(next(spare)) for byte in range(256)]


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding run until every word is one symbol: the merges, most frequent pair first.

    Words are in lower-case ASCII; ties go to the pair that sorts first, so the result is deterministic.
    """
    split = [[*word[:-1], word[-1] + END] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for symbols in split for pair in zip(symbols, symbols[1:], strict=False))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for symbols in split:
            index = 0
            while index + 1 < len(symbols):
                if (symbols[index], symbols[index + 1]) == best:
                    symbols[index : index + 2] = ["".join(best)]
                index += 1


def build_tokenizer(words: Sequence[str], folder: Path) -> CLIPTokenizer:
    """A tokenizer over all bytes plus one token per word; its vocab.json and merges.txt are put in ``folder``."""
    merges = learn_merges(words)
    alphabet = _byte_alphabet()
    symbols = [*alphabet, *(sign + END for sign in alphabet), *("".join(pair) for pair in merges)]
    symbols = [*dict.fromkeys(symbols), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({symbol: number for number, symbol in enumerate(symbols)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer
