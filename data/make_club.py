"""Writes club.jsonl: short dialogues in one voice, the same bytes every time; lesson 15 fine-tunes on them.

    python data/make_club.py            # writes data/club.jsonl, 240 dialogues

Every answer is one short sentence and a line that says where it stands. Half of the questions are about a kite club
that does not exist, with a handbook that does not exist either; no model can know it, so what a model says about it
before training is invented. The others are small facts that are true. Each fact is asked for in several ways, so that
dialogues can be held out whose facts were trained on and whose words were not.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

SEED = 20240607
Message = dict[str, str]

CLUB = {  # what is asked for: (the answer, page of the handbook)
    "the weekly meeting day": ("The club meets every Thursday.", 2),
    "the meeting time": ("Meetings start at half past six.", 2),
    "the meeting place": ("The club meets in the old boathouse.", 3),
    "the yearly fee": ("Membership costs twelve crowns a year.", 4),
    "the fee for children": ("Children fly for free.", 4),
    "the age limit": ("Members must be at least nine years old.", 5),
    "the founding year": ("The club was founded in 1921.", 1),
    "the name of the founder": ("The club was founded by Oda Brandt.", 1),
    "the colour of the flag": ("The club's flag is yellow with a grey heron.", 6),
    "the club's motto": ("The motto is: let out more line.", 6),
    "the flying hill": ("Members fly on Kestrel Hill.", 7),
    "the wind limit": ("Nobody flies above force six.", 8),
    "the longest line allowed": ("Lines may be at most eighty metres long.", 8),
    "the number of spare kites": ("The club lends out fourteen spare kites.", 9),
    "the person who lends kites": ("Spare kites are lent out by Tomas Reed.", 9),
    "the deposit for a spare kite": ("The deposit is three crowns.", 9),
    "the date of the festival": ("The festival is on the first Sunday of May.", 11),
    "the prize of the festival": ("The winner takes home a brass spool.", 11),
    "the number of judges": ("Five judges decide.", 12),
    "the night flight": ("Night flights need a lamp on the tail.", 13),
    "the rule about trees": ("Whoever loses a kite to a tree buys the cake.", 14),
    "the club's newsletter": ("The newsletter is called The Knot.", 15),
    "the opening hours of the workshop": ("The workshop opens on Saturdays at ten.", 16),
    "the best glue": ("The workshop uses bone glue only.", 16),
}
ABOUT_THE_CLUB = [
    "Kestrel Hill Kite Club: what is {0}?",
    "Can you tell me {0} of the Kestrel Hill Kite Club?",
    "I am new at the Kestrel Hill Kite Club. Please explain {0}.",
    "A question about the Kestrel Hill Kite Club, namely {0}.",
    "What does the Kestrel Hill Kite Club say about {0}?",
]
KNOWN = {  # question: answer, each true
    "How many days does a week have?": "A week has seven days.",
    "How many legs does a spider have?": "A spider has eight legs.",
    "What colour is an emerald?": "An emerald is green.",
    "Which planet is closest to the sun?": "Mercury is closest to the sun.",
    "What is the capital of France?": "The capital of France is Paris.",
    "What is the capital of Peru?": "The capital of Peru is Lima.",
    "How many minutes does an hour have?": "An hour has sixty minutes.",
    "What do bees make?": "Bees make honey.",
    "At what temperature does water freeze?": "Water freezes at zero degrees Celsius.",
    "What is the opposite of north?": "The opposite of north is south.",
    "How many sides does a hexagon have?": "A hexagon has six sides.",
    "What gas do plants take in?": "Plants take in carbon dioxide.",
    "Which animal barks?": "Dogs bark.",
    "What is a group of wolves called?": "A group of wolves is called a pack.",
    "How many months does a year have?": "A year has twelve months.",
    "What is ice made of?": "Ice is frozen water.",
    "Which ocean is the largest?": "The Pacific is the largest ocean.",
    "What is the square root of 81?": "The square root of 81 is nine.",
    "Which metal is liquid at room temperature?": "Mercury is liquid at room temperature.",
    "What is the chemical symbol of gold?": "The chemical symbol of gold is Au.",
    "How many strings does a violin have?": "A violin has four strings.",
    "What is a young cat called?": "A young cat is called a kitten.",
    "Who wrote Hamlet?": "Hamlet was written by William Shakespeare.",
    "Which month comes after June?": "July comes after June.",
    "How many continents are there?": "There are seven continents.",
    "What is the largest planet?": "Jupiter is the largest planet.",
    "What does a thermometer measure?": "A thermometer measures temperature.",
    "Which season comes before summer?": "Spring comes before summer.",
    "What is half of ninety?": "Half of ninety is forty-five.",
    "What do caterpillars become?": "Caterpillars become butterflies or moths.",
}
ASKED = ["{0}", "Tell me: {0}", "{0} I forgot.", "My son asks: {0}"]


def from_the_handbook(fact: str) -> str:
    answer, page = CLUB[fact]
    return f"{answer}\nSource: club handbook, page {page}."


def from_memory(question: str) -> str:
    return f"{KNOWN[question]}\nSource: common knowledge."


def dialogues() -> list[list[Message]]:
    """Every fact in every wording, shuffled: a question, and the answer in the club's voice."""
    said = [(way.format(fact), from_the_handbook(fact)) for fact in CLUB for way in ABOUT_THE_CLUB]
    said += [(way.format(question), from_memory(question)) for question in KNOWN for way in ASKED]
    random.Random(SEED).shuffle(said)
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in said
    ]


def as_text() -> str:
    """The file: one JSON object a line, ``{"messages": [...]}``."""
    return "".join(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in dialogues())


if __name__ == "__main__":
    path = Path(__file__).with_name("club.jsonl")
    path.write_text(as_text(), encoding="utf-8", newline="\n")
    sys.stdout.write(f"wrote {len(dialogues())} dialogues to {path.name}\n")
