"""A chat template that does not come to an end, or asks for more than a memory holds, is a sentence."""

from __future__ import annotations

import pytest

from varlen_lab.documents.bounded import MOST_STEPS
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.refusals import Refused
from varlen_lab.documents.tokens import rendered

ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a range": "{% for i in range(10**12) %}{% endfor %}",
    "a text times a number": "{{ 'a' * 10**10 }}",
    "a format": "{{ '%1000000000d' % 1 }}",
    "a format, as a filter": "{{ '%1000000000d'|format(1) }}",
    "a format, as a method": "{{ '{:1000000000d}'.format(1) }}",
    "a join": "{{ (['x' * 100000] * 100000)|join }}",
    "a text doubled": "{% set n = namespace(a='a') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "a list doubled": "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "a width": "{{ 'a'|center(10**10) }}",
    "a power": "{{ 10 ** (10**10) }}",
}
ASKED = [Dialogue([{"role": "user", "content": "Hi"}])]


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_without_an_end_is_refused(kind: str) -> None:
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = ENDLESS[kind]
    with pytest.raises(Refused, match=f"does not come to an end within {MOST_STEPS:,} steps"):
        rendered(tokenizer, ASKED, False)


def test_what_templates_do_is_as_it_was() -> None:
    tokenizer = builtin_tokenizer(progress=False)
    text = (
        "{% for m in messages if m.role %}{{ loop.index ~ '/' ~ loop.length ~ m['content'] }}{{ '' if loop.last }}"
        "{% endfor %}{{ '%s-%d' % ('a', 2) }}{{ [1, 'b']|join('+') ~ none ~ missing }}{{ 'ab' * 2 }}"
    )
    tokenizer.chat_template = text
    ours = rendered(tokenizer, ASKED, False)
    assert ours == [tokenizer.apply_chat_template(ASKED[0], tokenize=False)] == ["1/1Hia-21+bNoneabab"]
