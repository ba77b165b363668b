"""Weights of transitions between words: by class, for single words, and for fixed collocations."""

from __future__ import annotations

HELD_OUT_SHARE = 0.03


def _weights(rule: str) -> dict[str, float]:
    pairs = (item.split(":") for item in rule.split())
    return {name: float(weight) for name, weight in pairs}


_BY_CLASS = {
    "<s>": _weights(
        "determiner:42 pronoun:28 number:6 degree:3 adjective:5 color:2 opener:7 person:3 food:2 animal:2 thing:2"
    ),
    "determiner": _weights(
        "adjective:13 color:7 animal:12 food:8 vehicle:9 thing:17 place:7 body:6 person:13 degree:3 opener:2"
    ),
    "pronoun": _weights("eating:19 driving:14 seeing:16 taking:19 hurting:11 moving:17"),
    "degree": _weights("adjective:75 manner:25"),
    "manner": _weights("END:60 time:25 preposition:15"),
    "adjective": _weights("animal:14 food:12 vehicle:14 thing:20 place:14 person:14 body:5 END:5 time:2"),
    "color": _weights("animal:20 vehicle:22 thing:28 food:8 place:12 body:6 END:4"),
    "animal": _weights("moving:34 seeing:10 eating:16 hurting:8 preposition:14 END:17"),
    "food": _weights("END:33 preposition:30 time:22 number:2"),
    "vehicle": _weights("moving:30 preposition:22 hurting:7 END:26 time:14"),
    "thing": _weights("preposition:34 END:33 time:16 moving:14"),
    "place": _weights("END:44 time:30 preposition:22 number:2"),
    "body": _weights("END:38 preposition:30 time:24 moving:4"),
    "person": _weights("eating:17 driving:13 seeing:15 taking:18 hurting:9 moving:16 preposition:4 END:5"),
    "number": _weights("number:42 time:14 END:44"),
    "eating": _weights("food:62 determiner:18 adjective:12 degree:2 opener:5"),
    "driving": _weights("vehicle:68 determiner:20 preposition:8 color:6"),
    "seeing": _weights("animal:35 person:33 determiner:22 adjective:6 place:3"),
    "taking": _weights("thing:62 determiner:24 color:8 adjective:5"),
    "hurting": _weights("body:66 determiner:26 thing:6"),
    "moving": _weights("preposition:54 time:18 END:19 manner:8"),
    "preposition": _weights("place:56 determiner:26"),
    "time": _weights("END:86 preposition:10 determiner:1"),
    "opener": _weights("closer:100"),
    "closer": _weights("END:46 preposition:26 time:20 moving:6"),
}

# Weights of single words in place of those of their class, because the followers of adjectives and prepositions depend
# on the word.
_BY_WORD = {
    **{word: _weights("food:62 place:14 thing:8 END:8 time:4") for word in ("hot", "cold", "warm")},
    **{word: _weights("person:52 animal:30 END:8") for word in ("happy", "sad", "young")},
    **{word: _weights("place:48 thing:18 body:16 END:6") for word in ("dark", "bright", "tall")},
    **{word: _weights("thing:44 body:18 animal:16 place:14 END:6") for word in ("wet", "dry", "long")},
    "slow": _weights("vehicle:62 animal:22 END:10"),
    "fat": _weights("animal:66 person:20 body:6 END:4"),
    "with": _weights("person:48 determiner:30 food:12 thing:8"),
    "by": _weights("vehicle:56 place:28 determiner:14"),
    "at": _weights("number:55 place:28 closer:6 determiner:10"),
    "on": _weights("thing:30 vehicle:12 place:24 determiner:30"),
    "under": _weights("thing:36 place:22 determiner:38"),
    "from": _weights("person:28 place:38 determiner:26"),
    **{word: _weights("person:38 body:22 thing:22 animal:8 vehicle:8 color:4 adjective:8") for word in ("my", "your")},
    **{word: _weights("body:34 thing:22 person:20 food:8 vehicle:8 color:5") for word in ("his", "her")},
    "our": _weights("place:36 vehicle:20 animal:14 person:16 adjective:8"),
    "a": _weights("adjective:20 color:10 animal:20 thing:24 vehicle:12 person:8 degree:4 food:4"),
    "fell": _weights("preposition:55 END:32 time:10"),
    "drank": _weights("food:74 adjective:18 determiner:8"),
}


def class_table(state: str) -> dict[str, float]:
    """Return the probabilities of the classes that may follow a state, where END counts as a class."""
    from hooked_whisper.synthetic.lexicon import CLASS_OF

    table = _BY_WORD.get(state) or _BY_CLASS[CLASS_OF.get(state, state)]
    total = sum(table.values())
    return {name: weight / total for name, weight in table.items()}


def collocations() -> dict[str, tuple[float, dict[str, float]]]:
    """Return the share of each word's row that goes to fixed followers, and the weights of these followers."""
    return {
        "very": (0.72, _weights("good:30 much:14 well:12 important:9 soon:7 big:7 small:6 old:5 hot:5 happy:5")),
        "so": (0.6, _weights("much:34 cold:20 bad:14 sad:12 fast:12 wet:8")),
        "traffic": (1.0, _weights("lights:46 jam:24 police:14 control:10 news:6")),
        "ice": (1.0, _weights("cream:88 rock:7 tea:5")),
        "thank": (1.0, _weights("you:90 mother:6 father:4")),
        "good": (0.66, _weights("morning:32 night:24 luck:20 news:12 tea:6")),
        "you": (0.1, _weights("</s>:60 very:20 so:20")),
        "police": (0.5, _weights("car:50 dog:30 van:20")),
        "school": (0.3, _weights("bus:70 book:30")),
        "tea": (0.2, _weights("cup:60 pot:40")),
        "egg": (0.2, _weights("cup:60 box:40")),
        "rock": (0.2, _weights("pool:100")),
        "fish": (0.2, _weights("soup:50 pie:50")),
        "peach": (0.2, _weights("pie:60 jam:40")),
        "car": (0.2, _weights("park:70 key:30")),
        "duck": (0.2, _weights("egg:50 soup:50")),
    }
