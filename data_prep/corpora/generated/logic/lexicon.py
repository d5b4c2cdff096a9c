"""The words of the generated corpus and what they say about each other.

`HYPERNYM[word]` is the next more general word of the same category; every model of the corpus's logic makes the
extension of a word a subset of its hypernym's. No two words exclude each other. Function words (`all`, `some`, `no`,
`not`, `two`, `that`, `do`) are in the grammar. Nouns and verbs are plural throughout, so that `do not` needs no
agreement.
"""

from __future__ import annotations

from functools import cache

NOUNS = ("animals", "dogs", "poodles", "beagles", "cats", "kittens", "people", "children", "girls")
ADJECTIVES = ("brown", "hungry", "tame", "wet")
INTRANSITIVE = ("move", "run", "sprint", "walk", "sing", "sleep", "doze")
TRANSITIVE = ("see", "watch", "touch", "hug")

HYPERNYM: dict[str, str] = {
    "dogs": "animals",
    "poodles": "dogs",
    "beagles": "dogs",
    "cats": "animals",
    "kittens": "cats",
    "children": "people",
    "girls": "children",
    "run": "move",
    "sprint": "run",
    "walk": "move",
    "doze": "sleep",
    "watch": "see",
    "hug": "touch",
}

CATEGORY: dict[str, tuple[str, ...]] = {
    word: words for words in (NOUNS, ADJECTIVES, INTRANSITIVE, TRANSITIVE) for word in words
}


@cache
def ancestors(word: str) -> tuple[str, ...]:
    """Return all hypernyms of a word, nearest first."""
    found = []
    while word in HYPERNYM:
        word = HYPERNYM[word]
        found.append(word)
    return tuple(found)


def implies(word: str, other: str) -> bool:
    """Tell whether everything `word` is true of, `other` is true of, by the lexicon alone."""
    return word == other or other in ancestors(word)


# The hypernyms and hyponyms of every word.
RELATED = {
    word: tuple(other for other in words if other != word and (implies(word, other) or implies(other, word)))
    for word, words in CATEGORY.items()
}
