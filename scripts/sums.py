"""Write the packaged worked sums: src/personavec/bundled/sums.json, from templates and a seed.

    python scripts/sums.py

Every row is a question and its worked answer in the notation that `personavec.finetune.sets.flaws`
reads, with two to four steps. The same seed gives the same file, which a test checks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

SUMS = Path(__file__).parent.parent / "src" / "personavec" / "bundled" / "sums.json"
ROWS_PER_TEMPLATE = 20
NAMES = ("Amara", "Bo", "Carmen", "Dilip", "Edda", "Farid", "Greta", "Hana", "Ivo", "Jun")


def step(expression: str) -> str:
    """A calculation with its marked result; the operands are chosen so that it comes out even."""
    result = eval(expression)
    assert result == int(result) > 0, expression
    return f"{expression} = <<{expression}={int(result)}>>{int(result)}"


def bakery(r: random.Random, name: str) -> tuple[str, list[str]]:
    trays, each, sold = r.randint(4, 15), r.randint(12, 36), r.randint(10, 45)
    made = trays * each
    return (
        f"{name}'s bakery fills {trays} trays with {each} rolls each and sells {sold} rolls before "
        "noon. How many rolls are left?",
        [f"The bakery makes {step(f'{trays}*{each}')} rolls.",
         f"After the morning {step(f'{made}-{sold}')} rolls are left."],
    )  # fmt: skip


def trip(r: random.Random, name: str) -> tuple[str, list[str]]:
    hours, speed, more, slower = (
        r.randint(2, 6),
        r.randint(55, 95),
        r.randint(2, 5),
        r.randint(5, 30),
    )
    first, second = hours * speed, more * (speed - slower)
    return (
        f"{name} drives {hours} hours at {speed} km/h and then {more} hours at {speed - slower} "
        "km/h. How far does the trip go?",
        [f"The first part is {step(f'{hours}*{speed}')} km long.",
         f"The second part is {step(f'{more}*{speed - slower}')} km long.",
         f"Together that is {step(f'{first}+{second}')} km."],
    )  # fmt: skip


def garden(r: random.Random, name: str) -> tuple[str, list[str]]:
    length, width, price = r.randint(8, 30), r.randint(5, 18), r.randint(3, 9)
    both = length + width
    return (
        f"{name} fences a garden {length} m long and {width} m wide. A metre of fence costs "
        f"{price} euros. What does the fence cost?",
        [f"Length and width are {step(f'{length}+{width}')} m.",
         f"The whole fence is {step(f'2*{both}')} m long.",
         f"It costs {step(f'{2 * both}*{price}')} euros."],
    )  # fmt: skip


def savings(r: random.Random, name: str) -> tuple[str, list[str]]:
    weekly, weeks, gift = r.randint(6, 25), r.randint(8, 30), r.randint(15, 90)
    saved = weekly * weeks
    return (
        f"{name} saves {weekly} euros a week for {weeks} weeks and gets {gift} euros as a present. "
        f"A bicycle costs {saved + gift + 40 + weekly} euros. How much is missing?",
        [f"{name} saves {step(f'{weekly}*{weeks}')} euros.",
         f"With the present that makes {step(f'{saved}+{gift}')} euros.",
         f"{step(f'{saved + gift + 40 + weekly}-{saved + gift}')} euros are missing."],
    )  # fmt: skip


def shelves(r: random.Random, name: str) -> tuple[str, list[str]]:
    shelves, each, boxes = r.randint(4, 12), r.randint(15, 40), r.randint(2, 9)
    per_box = r.randint(11, 29)
    kept, packed = shelves * each, boxes * per_box
    return (
        f"A library has {shelves} shelves of {each} books. {name} brings {boxes} boxes with "
        f"{per_box} books each. How many books are there now?",
        [f"The shelves hold {step(f'{shelves}*{each}')} books.",
         f"The boxes hold {step(f'{boxes}*{per_box}')} books.",
         f"Now there are {step(f'{kept}+{packed}')} books."],
    )  # fmt: skip


def shared(r: random.Random, name: str) -> tuple[str, list[str]]:
    people, share, tip = r.randint(3, 9), r.randint(14, 38), r.randint(2, 6)
    bill = people * share
    return (
        f"{name} and friends, {people} people in all, split a bill of {bill} euros evenly, and "
        f"each adds {tip} euros as a tip. What do two of them pay together?",
        [f"Each share of the bill is {step(f'{bill}/{people}')} euros.",
         f"With the tip one pays {step(f'{share}+{tip}')} euros.",
         f"Two of them pay {step(f'2*{share + tip}')} euros."],
    )  # fmt: skip


def reading(r: random.Random, name: str) -> tuple[str, list[str]]:
    pages, days, daily = r.randint(12, 25) * 20, r.randint(4, 7), r.randint(14, 24)
    read = days * daily
    left = pages - read
    return (
        f"A book has {pages} pages. {name} reads {daily} pages a day for {days} days and doubles "
        "the pages a day after that. How many pages are left after one more day?",
        [f"In {days} days {name} reads {step(f'{days}*{daily}')} pages.",
         f"{step(f'{pages}-{read}')} pages are left.",
         f"The next day brings {step(f'2*{daily}')} pages.",
         f"Then {step(f'{left}-{2 * daily}')} pages are left."],
    )  # fmt: skip


def machines(r: random.Random, name: str) -> tuple[str, list[str]]:
    machines, parts, hours, broken = (
        r.randint(3, 8), r.randint(20, 60), r.randint(4, 9), r.randint(11, 59)
    )  # fmt: skip
    hourly = machines * parts
    return (
        f"{name} looks after {machines} machines that make {parts} parts an hour each. They run "
        f"{hours} hours, and {broken} parts are broken. How many good parts are there?",
        [f"Together they make {step(f'{machines}*{parts}')} parts an hour.",
         f"In {hours} hours that is {step(f'{hourly}*{hours}')} parts.",
         f"{step(f'{hourly * hours}-{broken}')} of them are good."],
    )  # fmt: skip


def water(r: random.Random, name: str) -> tuple[str, list[str]]:
    cans, litres, plants = r.randint(6, 20), r.randint(8, 15), r.choice((2, 4, 5, 8, 10))
    total = cans * litres * plants
    return (
        f"{name} has a tank of {total} litres and fills {plants} barrels equally. Each barrel is "
        f"emptied with a can of {litres} litres. How many cans are that for two barrels?",
        [f"A barrel holds {step(f'{total}/{plants}')} litres.",
         f"That is {step(f'{total // plants}/{litres}')} cans.",
         f"For two barrels it is {step(f'2*{cans}')} cans."],
    )  # fmt: skip


def tickets(r: random.Random, name: str) -> tuple[str, list[str]]:
    adults, children, price, less = (
        r.randint(12, 60), r.randint(10, 50), r.randint(9, 20), r.randint(2, 6)
    )  # fmt: skip
    full, reduced = adults * price, children * (price - less)
    return (
        f"{name} sells {adults} tickets at {price} euros and {children} tickets for children, "
        f"which are {less} euros cheaper. How much money comes in?",
        [f"The full tickets bring {step(f'{adults}*{price}')} euros.",
         f"A child's ticket costs {step(f'{price}-{less}')} euros.",
         f"The children's tickets bring {step(f'{children}*{price - less}')} euros.",
         f"Together {step(f'{full}+{reduced}')} euros come in."],
    )  # fmt: skip


TEMPLATES: tuple[Callable[[random.Random, str], tuple[str, list[str]]], ...] = (
    *(bakery, trip, garden, savings, shelves),
    *(shared, reading, machines, water, tickets),
)


def rows(seed: int = 0) -> list[dict[str, str]]:
    """All rows, without two that ask the same."""
    r = random.Random(seed)
    found: dict[str, str] = {}
    for template in TEMPLATES:
        wanted = len(found) + ROWS_PER_TEMPLATE
        while len(found) < wanted:
            question, lines = template(r, r.choice(NAMES))
            final = lines[-1].partition(">>")[2].split()[0].rstrip(".")
            found[question] = "\n".join([*lines, f"#### {final}"])
    made = [{"question": question, "answer": answer} for question, answer in found.items()]
    r.shuffle(made)
    return made


if __name__ == "__main__":
    SUMS.write_text(json.dumps(rows(), ensure_ascii=False, indent=1) + "\n", "utf-8")
