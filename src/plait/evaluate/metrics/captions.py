"""Scores of captions against several human ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from plait.errors import InputError
from plait.evaluate.metrics.treebank import words

ORDERS = 4
SIGMA = 6.0  # of the penalty on a difference in length
SCALE = 10.0

Array = NDArray[np.int64]


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """CIDEr-D of every candidate; the mean is the score of all. # (n,), from 0 to 10

    Vedantam et al. (arXiv 1411.5726), as coco-caption and pycocoevalcap compute what papers print as CIDEr (times 100):
    n-grams of 1 to 4 words weighed by how few of the *given* images have them, counts clipped to the reference's, a
    Gaussian penalty on the difference in length. So a caption's score depends on the set that it is scored in.

    Args:
        candidates: a caption for each of n images.
        references: the captions of people for each image, at least one.

    Raises:
        InputError: counts that differ, an image without a reference, or fewer than 2 images (all weights would be 0).
    """
    n = len(candidates)
    if n != len(references):
        raise InputError(f"{n} captions but references of {len(references)} images: give one caption for each image")
    if n < 2:
        raise InputError(f"CIDEr of {n} image: words are weighed by how many images have them, give at least 2")
    bare = [i for i, captions in enumerate(references) if not captions]
    if bare:
        raise InputError(f"{len(bare)} of {n} images without a reference, such as number {bare[0]}: leave them out")
    per_image = np.array([len(captions) for captions in references])
    image = np.concatenate([np.arange(n), np.repeat(np.arange(n), per_image)])  # (s,): of each text, candidates first
    texts = [words(text) for text in chain(candidates, chain.from_iterable(references))]
    lengths = np.array([len(text) for text in texts])

    similarity = sum(_similarity(image, n, *grams) for grams in _grams(texts, lengths))

    bigrams = np.maximum(lengths - 1, 0)
    penalty = np.exp(-((bigrams[image[n:]] - bigrams[n:]) ** 2) / (2 * SIGMA**2))
    return SCALE / ORDERS * np.bincount(image[n:], similarity * penalty, minlength=n) / per_image


def _similarity(image: Array, n: int, text: Array, gram: Array, count: Array) -> NDArray[np.float64]:
    """Clipped cosine of each reference and its image's candidate, over n-grams of one length. # (s - n,)"""
    grams = int(gram.max(initial=0)) + 1
    key = image[text] * grams + gram  # (p,): of the candidates, which come first, in rising order
    said, held = text < n, text >= n
    images_with = np.bincount(np.unique(key[held]) % grams, minlength=grams)
    weight = count * (np.log(n) - np.log(np.maximum(images_with, 1)))[gram]

    known, wanted = key[said], key[held]
    at = np.searchsorted(known, wanted)
    both = at < len(known)
    both[both] = known[at[both]] == wanted[both]
    clipped = np.minimum(weight[said][at[both]], weight[held][both])
    dot = np.bincount(text[held][both] - n, clipped * weight[held][both], minlength=len(image) - n)

    norm = np.sqrt(np.bincount(text, weight**2, minlength=len(image)))
    norms = norm[image[n:]] * norm[n:]
    return np.divide(dot, norms, out=np.zeros(len(norms)), where=norms > 0)


def _grams(texts: Sequence[Sequence[str]], lengths: Array) -> Iterator[tuple[Array, Array, Array]]:
    """For 1 to ORDERS words: the n-grams of each text and their counts. # text, gram, count: (p,), in order of text"""
    vocabulary: dict[str, int] = {}
    word = np.array([vocabulary.setdefault(word, len(vocabulary)) for text in texts for word in text], dtype=np.int64)
    text = np.repeat(np.arange(len(texts)), lengths)
    start = np.arange(len(word))  # where a gram begins
    gram = word
    for order in range(ORDERS):
        if order:
            whole = start + order < np.cumsum(lengths)[text[start]]  # it ends within its text
            start, gram = start[whole], gram[whole]
            _, gram = np.unique(gram * len(vocabulary) + word[start + order], return_inverse=True)
        kinds = int(gram.max(initial=0)) + 1
        pair, count = np.unique(text[start] * kinds + gram, return_counts=True)
        yield pair // kinds, pair % kinds, count
