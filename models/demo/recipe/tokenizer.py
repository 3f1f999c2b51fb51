"""A CLIP tokenizer whose every known word is one token.

Byte-pair merges are learnt from the vocabulary itself until no known word is in two pieces; words
it never met fall into letters, whose embeddings training leaves at zero.
"""

from collections import Counter
from string import ascii_lowercase, digits, punctuation
from typing import Final

from transformers import CLIPTokenizer

from models.demo.recipe.captions import vocabulary

MAX_TOKENS: Final = 24  # the longest caption of two things is 21 words, and two marks
BOS: Final = "<|startoftext|>"
EOS: Final = "<|endoftext|>"

Pieces = tuple[str, ...]


def build_tokenizer() -> CLIPTokenizer:
    merges = _merges(vocabulary())
    letters = [*ascii_lowercase, *digits, *punctuation]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), BOS, EOS]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    split: list[Pieces] = [(*word[:-1], f"{word[-1]}</w>") for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for pieces in split for pair in zip(pieces, pieces[1:])):  # noqa: B905, RUF007
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        split = [_merge(pieces, best) for pieces in split]
    return merges


def _merge(pieces: Pieces, pair: tuple[str, str]) -> Pieces:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)
