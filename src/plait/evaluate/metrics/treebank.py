"""Words of a caption, nearly as the Penn Treebank tokenizer cuts them.

Captions are scored over the tokens of Stanford's PTBTokenizer 3.4.1 in lower case, less punctuation; coco-caption and
pycocoevalcap call it so. That program needs Java; these rules do not. They cover what captions hold: clitics, hyphens,
numbers, abbreviations, quotes and brackets. They leave out its smileys, tags, web addresses and rarer abbreviations.
"""

from __future__ import annotations

import re
from functools import lru_cache

CURLY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": "..."})
CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))(?![\w])")
SPLIT = {  # words that are two
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
ABBREVIATIONS = (  # keep their dot
    "mr mrs ms dr prof gen col sgt lt capt rev hon gov sen rep pres jr sr co corp inc ltd bros vs etc al dept univ st "
    "ave blvd rd mt ft jan feb mar apr jun jul aug sept sep oct nov dec mon tue wed thu fri ph"
)
TOKEN = re.compile(
    rf"""
    '(?:tis|twas|til|em|n|s|m|d|re|ve|ll|\d\ds)\b            # begins with an apostrophe
    | \d+(?::\d+)+ | [-+]?\d+(?:,\d\d\d)+(?:\.\d+)?          # 2:30, 1,000
    | (?<![\w.])(?:{"|".join(ABBREVIATIONS.split())})\.
    | (?<![\w.])(?:[a-z]\.)*[a-z]\.(?![a-z\d])               # u.s., the b. of plan b.
    | [-+]?\d*\.\d+ | [-+]\d+
    | no\.(?=\s*\d)
    | \w+(?:(?:[-./@]|(?<=[a-z])'(?=[a-z]))\w+)*               # t-shirt, and/or, o'clock, 3.5
    | \.{{2,}} | --+ | [?!]{{2,}} | \S
    """,
    re.VERBOSE,
)
BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}  # kept, being lower case
DROPPED = re.compile(r"['`\"?!,:;]|\.+|-+")  # ?! and !! are kept, not being among the 17 that coco-caption drops


@lru_cache(maxsize=1 << 16)
def words(caption: str) -> tuple[str, ...]:
    """The words of a caption: lower case, clitics apart, without punctuation."""
    text = CLITIC.sub(r" \1", caption.lower().translate(CURLY))
    found: list[str] = []
    for token in TOKEN.findall(text):
        if not DROPPED.fullmatch(token):
            found += SPLIT.get(token, (BRACKETS.get(token, token),))
    return tuple(found)
