"""Writes dialogues.jsonl: small true dialogues, from three words to some hundred, the same bytes every time.

    python data/make_dialogues.py            # writes data/dialogues.jsonl, 500 dialogues

Each kind of dialogue is one function: dice in, messages out. Everything an answer says is computed, so a test can
compute it again. Lengths have a heavy tail on purpose: most are short, a few are long, as in real chat data.
"""

from __future__ import annotations

import calendar
import datetime
import json
import random
import sys
from pathlib import Path

NUMBER = 500
SEED = 20231024
Message = dict[str, str]

WORDS = [
    "river", "stone", "candle", "window", "garden", "bridge", "paper", "winter", "silver",
    "orange", "tunnel", "forest", "mirror", "ladder", "pencil", "castle", "island", "rocket",
    "pepper", "violin", "basket", "desert", "anchor", "marble", "helmet", "kettle", "lantern",
    "meadow", "needle", "ribbon", "saddle", "thunder", "velvet", "walnut", "yellow", "zipper",
]  # fmt: skip

CITIES = {  # city: (country, capital of it?)
    "Paris": ("France", True),
    "Lyon": ("France", False),
    "Shanghai": ("China", False),
    "Beijing": ("China", True),
    "Ottawa": ("Canada", True),
    "Toronto": ("Canada", False),
    "Canberra": ("Australia", True),
    "Sydney": ("Australia", False),
    "Nairobi": ("Kenya", True),
    "Lima": ("Peru", True),
}
DAYS_ZH = "一二三四五六日"


def said(*turns: str, system: str = "") -> list[Message]:
    """Messages of alternating user and assistant turns, with a system message in front if there is one."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return [{"role": "system", "content": system}] * bool(system) + messages


def addition(dice: random.Random) -> list[Message]:
    a, b = dice.randint(2, 999), dice.randint(2, 999)
    return said(f"What is {a} + {b}?", f"{a + b}")


def multiplication_in_steps(dice: random.Random) -> list[Message]:
    a, b = dice.randint(12, 99), 10 * dice.randint(1, 9) + dice.randint(1, 9)
    tens, ones = divmod(b, 10)
    steps = [f"{a} × {tens * 10} = {a * tens * 10}.", f"{a} × {ones} = {a * ones}."]
    return said(
        f"Multiply {a} by {b}. Show the steps.",
        " ".join(steps) + f" Together: {a * tens * 10} + {a * ones} = {a * b}.",
        system="You are a patient teacher.",
    )


def weekday(dice: random.Random) -> list[Message]:
    day = datetime.date(1990, 1, 1) + datetime.timedelta(days=dice.randrange(15000))
    return said(f"On which weekday was {day.isoformat()}?", f"It was a {day:%A}.")


def weekday_zh(dice: random.Random) -> list[Message]:
    day = datetime.date(1990, 1, 1) + datetime.timedelta(days=dice.randrange(15000))
    return said(f"{day.year}年{day.month}月{day.day}日是星期几？", f"那天是星期{DAYS_ZH[day.weekday()]}。")


def addition_zh(dice: random.Random) -> list[Message]:
    a, b = dice.randint(2, 99), dice.randint(2, 99)
    return said(f"{a}加{b}等于多少？", f"{a}加{b}等于{a + b}。", system="请用中文回答。")


def sorting(dice: random.Random) -> list[Message]:
    words = dice.sample(WORDS, dice.randint(3, 12))
    return said(f"Sort these words: {', '.join(words)}.", ", ".join(sorted(words)))


def backwards(dice: random.Random) -> list[Message]:
    word = dice.choice(WORDS)
    return said(f"Spell {word} backwards.", word[::-1])


def capital(dice: random.Random) -> list[Message]:
    city = dice.choice(list(CITIES))
    country, is_capital = CITIES[city]
    yes, no = f"Yes, {city} is the capital of {country}.", f"No, {city} is in {country}, not its capital."
    return said(f"Is {city} a capital?", yes if is_capital else no)


def roman(dice: random.Random) -> list[Message]:
    number = dice.randint(1, 3999)
    return said(f"Write {number} in Roman numerals.", roman_numeral(number))


def kilometres(dice: random.Random) -> list[Message]:
    miles = dice.randint(2, 500)
    return said(f"How many kilometres are {miles} miles?", f"{miles} miles are {miles * 1.609344:.2f} km.")


def letters(dice: random.Random) -> list[Message]:
    words = dice.sample(WORDS, dice.randint(2, 5))
    turns = [f"How many letters are in {words[0]}?", f"{len(words[0])}"]
    for word in words[1:]:
        turns += [f"And in {word}?", f"{len(word)}"]
    return said(*turns)


def fahrenheit(dice: random.Random) -> list[Message]:
    celsius = dice.randint(-40, 110)
    return said(f"Convert {celsius} °C to Fahrenheit.", f"{celsius} °C is {celsius * 9 / 5 + 32:.1f} °F.")


def leap_year(dice: random.Random) -> list[Message]:
    year = dice.choice([dice.randint(1800, 2100), 100 * dice.randint(16, 24)])
    reason = "it is not divisible by 4"
    for divisor, rule in ((4, "it is divisible by 4 and not by 100"), (100, "it is divisible by 100 and not by 400")):
        reason = reason if year % divisor else rule
    reason = reason if year % 400 else "it is divisible by 400"
    answer = "Yes" if calendar.isleap(year) else "No"
    return said(f"Is {year} a leap year, and why?", f"{answer}: {reason}.", system="Answer in one sentence.")


def days_between(dice: random.Random) -> list[Message]:
    start = datetime.date(2000, 1, 1) + datetime.timedelta(days=dice.randrange(9000))
    days = dice.randint(1, 700)
    end = start + datetime.timedelta(days=days)
    return said(f"How many days are there from {start} to {end}?", f"{days} day{'s' * (days != 1)}.")


def length_zh(dice: random.Random) -> list[Message]:
    metres = dice.randint(2, 90)
    turns = [f"{metres}米是多少厘米？", f"{metres}米是{metres * 100}厘米。"]
    if dice.random() < 0.5:
        turns += ["那是多少毫米？", f"{metres * 100}厘米是{metres * 1000}毫米。"]
    return said(*turns, system="你是一位耐心的数学老师。" if dice.random() < 0.5 else "")


def price_list(dice: random.Random) -> list[Message]:
    """A table in the question, looked up over several turns."""
    prices = {word: dice.randint(1, 60) for word in dice.sample(WORDS, dice.randint(4, 10))}
    lines = "\n".join(f"{word}: {price} coins" for word, price in prices.items())
    dear = max(prices, key=lambda word: prices[word])
    turns = [f"Here is a price list.\n{lines}\nWhat does the first item cost?", f"{next(iter(prices.values()))} coins."]
    turns += ["How many items are there?", f"{len(prices)}."]
    if list(prices.values()).count(prices[dear]) == 1:
        turns += ["Which is the most expensive?", f"The {dear}, at {prices[dear]} coins."]
    turns += ["What do they cost together?", f"{' + '.join(map(str, prices.values()))} = {sum(prices.values())} coins."]
    return said(*turns, system="You answer questions about a price list. Use only what it says.")


def bookkeeping(dice: random.Random) -> list[Message]:
    """A long conversation that has to remember: every answer depends on all the turns before it."""
    balance = dice.randint(50, 500)
    turns = [f"Keep my accounts. I start with {balance} coins.", f"Noted: you have {balance} coins."]
    for _ in range(round(dice.lognormvariate(2.1, 0.6))):
        amount = dice.randint(1, 80)
        thing = dice.choice(WORDS)
        if amount > balance:
            turns.append(f"I sell a {thing} for {amount} coins.")
            told = f"{balance} + {amount} = {balance + amount}"
            balance += amount
        else:
            turns.append(f"I buy a {thing} for {amount} coins.")
            told = f"{balance} − {amount} = {balance - amount}"
            balance -= amount
        turns.append(f"{told}. You have {balance} coin{'s' * (balance != 1)}.")
    return said(*turns, system="You keep accounts and show every sum.")


def table(dice: random.Random) -> list[Message]:
    factor, last = dice.randint(3, 19), dice.choice([10, 20, 20, 40, 80])
    lines = [f"{factor} × {i} = {factor * i}" for i in range(1, last + 1)]
    return said(f"Write the multiplication table of {factor} up to {last}.", "\n".join(lines))


def primes(dice: random.Random) -> list[Message]:
    start = dice.randint(2, 400)
    end = start + dice.choice([60, 200, 600, 1500])
    found = [n for n in range(start, end + 1) if all(n % d for d in range(2, int(n**0.5) + 1))]
    return said(
        f"List the primes from {start} to {end}.", ", ".join(map(str, found)) or "None.", "How many?", f"{len(found)}"
    )


def roman_numeral(number: int) -> str:
    """1994 -> MCMXCIV."""
    parts = {1000: "M", 900: "CM", 500: "D", 400: "CD", 100: "C", 90: "XC"} | {
        50: "L", 40: "XL", 10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I",
    }  # fmt: skip
    written = ""
    for value, letter in parts.items():
        count, number = divmod(number, value)
        written += letter * count
    return written


KINDS = {  # kind: how often among 100
    addition: 12,
    weekday: 7,
    weekday_zh: 5,
    addition_zh: 6,
    length_zh: 4,
    backwards: 8,
    capital: 5,
    roman: 7,
    kilometres: 5,
    fahrenheit: 5,
    leap_year: 5,
    days_between: 4,
    sorting: 7,
    multiplication_in_steps: 5,
    letters: 4,
    price_list: 4,
    bookkeeping: 4,
    table: 2,
    primes: 1,
}


def dialogues() -> list[list[Message]]:
    """All of them, in file order, no two alike."""
    dice = random.Random(SEED)
    unique: dict[str, list[Message]] = {}
    while len(unique) < NUMBER:
        (kind,) = dice.choices(list(KINDS), weights=list(KINDS.values()))
        messages = kind(dice)
        unique.setdefault(json.dumps(messages), messages)
    return list(unique.values())


def as_text() -> str:
    """The file: one JSON object a line, ``{"messages": [...]}``."""
    return "".join(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in dialogues())


if __name__ == "__main__":
    path = Path(__file__).with_name("dialogues.jsonl")
    path.write_text(as_text(), encoding="utf-8", newline="\n")
    sys.stdout.write(f"wrote {NUMBER} dialogues to {path.name}\n")
