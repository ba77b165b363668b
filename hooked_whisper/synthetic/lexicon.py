"""The words of the synthetic corpus and their classes.

With a leading space, every word is one token of Whisper's multilingual tokenizer, so each word is one decoding step.
The classes are semantic, and words that rhyme are in different classes on purpose (rug, mug and jug are things, bug is
an animal; tea is food, bee an animal, key a thing, sea a place, knee a body part, three a number).
"""

from __future__ import annotations

from functools import cache

CLASSES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "determiner": "the a my your his her our this",
        "pronoun": "i we they you he she",
        "degree": "very so",
        "manner": "much well important fast soon",
        "adjective": "good bad big small old new hot cold warm slow happy sad long tall wet dry dark bright fat young",
        "color": "red blue green black white brown pink",
        "animal": "dog cat rat bat frog duck cow bee bear horse sheep pig goat fish bird hen fox mouse bug snake",
        "food": "tea bread cake rice meat egg soup pie milk corn nut honey ham pea bun pear butter jam peach wine",
        "vehicle": "car bus truck train boat ship bike plane van cart",
        "thing": "rug mug jug hat cap bag map pen lamp ring bell ball book cup clock rope coin key coat boot box chair "
        "bed lock rock pot jar",
        "place": "sea lake house park school farm road town hill tree beach shop pool barn cave garden kitchen hall",
        "body": "head hand nose chin lip leg knee toe hair arm",
        "person": "man boy girl king queen mother father brother sister doctor teacher cook nurse baby",
        "number": "two three four five six seven eight nine ten twelve",
        "eating": "ate bought made drank",
        "driving": "drove rode built",
        "seeing": "saw met heard fed",
        "taking": "took lost found held kept sold got",
        "hurting": "hit cut broke",
        "moving": "ran walked flew fell came went sat slept stood",
        "preposition": "in on by near under with from to at",
        "time": "today tomorrow later again tonight",
        "opener": "traffic ice thank",
        "closer": "lights police control cream morning luck news night",
    }.items()
}

WORDS: tuple[str, ...] = tuple(word for words in CLASSES.values() for word in words)
CLASS_OF: dict[str, str] = {word: name for name, words in CLASSES.items() for word in words}

# Classes whose words share a meaning. The other classes are mostly grammatical.
CONTENT_CLASSES = (
    "adjective",
    "color",
    "animal",
    "food",
    "vehicle",
    "thing",
    "place",
    "body",
    "person",
    "number",
    "moving",
    "time",
)


@cache
def token_ids() -> dict[str, int]:
    """Return the token id of each word with its leading space.

    Raises:
        ValueError: a word is not exactly one token.
    """
    from whisper.tokenizer import get_tokenizer

    tokenizer = get_tokenizer(multilingual=True)
    ids = {}
    for word in WORDS:
        pieces = tokenizer.encode(" " + word)
        if len(pieces) != 1:
            raise ValueError(f"{word!r} is {len(pieces)} tokens, expected one: choose another word for the lexicon")
        ids[word] = pieces[0]
    return ids
