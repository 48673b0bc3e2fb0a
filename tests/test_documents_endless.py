"""A chat template that does not come to an end, or asks for more than a memory holds, is a sentence."""

from __future__ import annotations

import pytest

from varlen_lab.documents import budget
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
    "a width of an indent": "{{ {'a': [1]}|tojson(indent=10**9) }}",
    "tabs": "{{ ('\\t' * 100000).expandtabs(100000) }}",
    "letters for a letter": "{{ ('a' * 1000000).translate({97: 'b' * 100000}) }}",
    "text that is made up": "{{ lipsum(n=10**6) }}",
    "a power": "{{ 10 ** (10**10) }}",
    "a long text written often": "{% set a = 'a' * 9000000 %}{% for i in range(9999) %}{{ a }}{% endfor %}",
    "a loop over itself": "{% for i in [1] recursive %}{% if loop.depth < 3 %}{{ loop(range(99999)) }}{% endif %}"
    "{% endfor %}",
    "bytes that are joined": "{% set a = ('a' * 9000000).encode() %}{% set b = a[:0].join([a] * 1000) %}",
    "a format of many fields": "{{ ('%(a)s' * 1000) % {'a': 'a' * 9000000} }}",
    "a filter of many fields": "{{ ('%(a)s' * 1000)|format(a='a' * 9000000) }}",
    "a method of many fields": "{{ ('{a}' * 1000).format_map({'a': 'a' * 9000000}) }}",
    "a width beside it": "{{ '{:>{}}'.format('a', 1000000000) }}",
    "what parts values": "{{ range(99999)|list|tojson(separators=('a' * 1000000, ':')) }}",
    "what stands in front of values": "{{ range(99999)|list|tojson(indent='a' * 1000000) }}",
    "a join of a range": "{{ range(99999)|join('a' * 9000000) }}",
    "a join of a filter": "{{ ('a' * 9000000).join(range(99999)|map('string')) }}",
    "letters that are looked for": "{{ ('a' * 3000000)|trim('b' * 3000000 ~ 'a') }}",
    "lists in a sum": "{{ ([[1] * 1000] * 9000)|sum(start=[]) }}",
    "an encoding": "{{ ('\u4e00\u4e01' * 500000).encode('punycode') }}",
    "a number of digits": "{{ (('f' * 9000000)|int(base=16)) // 7 }}",
    "a deep tuple": "{% set n = namespace(a=1) %}{% for i in range(9999) %}{% set n.a = (n.a,) %}{% endfor %}"
    "{% set a = {n.a: 1} %}",
}
# sixty times in a loop, and then
DOUBLED = {
    "a list in itself": ("{% set n.a = [n.a, n.a] %}", "{{ n.a|tojson }}"),
    "a tuple in itself": ("{% set n.a = (n.a, n.a) %}", "{{ n.a }}"),
    "a dict in itself": ("{% set n.a = {1: n.a, 2: n.a} %}", "{{ n.a }}"),
    "a dict by a call": ("{% set n.a = dict(a=n.a, b=n.a) %}", "{{ n.a }}"),
    "two that are compared": ("{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}", "{{ n.a == n.b }}"),
    "the values of a dict": ("{% set n.a = {1: n.a, 2: n.a}.values() %}", "{{ n.a }}"),
    "the items of a dict": ("{% set n.a = {1: n.a, 2: n.a}.items() %}", "{{ n.a }}"),
    "a view's dict": ("{% set n.a = {1: n.a, 2: n.a}.items().mapping %}", "{{ n.a }}"),
    "a namespace in itself": ("{% set n.a = namespace(a=n.a, b=n.a) %}", "{{ n.a }}"),
    "a number": ("{% set n.a = (n.a + 1) * (n.a + 1) %}", "{{ n.a % 7 }}"),
    "a block": ("{% set n.a %}{{ n.a }}{{ n.a }}{% endset %}", ""),
    "a macro": ("{% macro two(x) %}{{ x }}{{ x }}{% endmacro %}{% set n.a = two(n.a) %}", ""),
}
LOOP = "{%% set n = namespace(a=1, b=1) %%}{%% for i in range(60) %%}%s{%% endfor %%}%s"
ENDLESS |= {f"{kind}, doubled": LOOP % parts for kind, parts in DOUBLED.items()}
ASKED = [Dialogue([{"role": "user", "content": "Hi"}])]


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_without_an_end_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_STEPS", 100_000)
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = ENDLESS[kind]
    with pytest.raises(Refused, match=r"does not come to an end within 100,000 steps|lipsum"):
        rendered(tokenizer, ASKED, False)


SLOW = {
    "a text looked through": "{% set a = 'a' * 9000000 %}"
    "{% for i in range(99999) %}{% set b = 'aab' in a %}{% endfor %}",
    "a list in a test": "{% set a = range(99999)|map('string')|list %}{{ range(99999)|select('in', a)|list }}",
    "lists that are compared": LOOP.replace("60", "19")
    % ("{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}", "{{ n.a == n.b }}" * 999),
}


@pytest.mark.parametrize("kind", SLOW)
def test_work_that_no_step_is_counted_for_is_ended_by_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_SECONDS", 0.1)
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = SLOW[kind]
    with pytest.raises(Refused, match=r"within 0\.1 seconds of work"):
        rendered(tokenizer, ASKED, False)


def test_each_dialogue_has_a_budget_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_STEPS", 1000)
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = "{% for i in range(600) %}{% endfor %}a"
    assert rendered(tokenizer, ASKED * 12, False) == ["a"] * 12


def test_what_a_long_dialogue_is_asked_for_in_each_round_costs_little() -> None:
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = (
        "{% for m in messages %}{% set rest = messages[loop.index:] %}{{ loop.index if not "
        "rest|selectattr('role', 'equalto', 'user')|list }}{{ m.content.replace('b', m.content[:2000]) }}{% endfor %}"
    )
    said = [{"role": "user" if one % 2 else "assistant", "content": "a" * 3000} for one in range(400)]
    long = [Dialogue([*said, {"role": "user", "content": "a" * 1_000_000}])]
    assert rendered(tokenizer, long, False) == [tokenizer.apply_chat_template(long[0], tokenize=False)]


def test_what_templates_do_is_as_it_was() -> None:
    tokenizer = builtin_tokenizer(progress=False)
    text = (
        "{% for m in messages if m.role %}{{ loop.index ~ '/' ~ loop.length ~ m['content'] }}{{ '' if loop.last }}"
        "{% endfor %}{{ '%s-%d' % ('a', 2) }}{{ [1, 'b']|join('+') ~ none ~ missing }}{{ 'ab' * 2 }}"
    )
    tokenizer.chat_template = text
    ours = rendered(tokenizer, ASKED, False)
    assert ours == [tokenizer.apply_chat_template(ASKED[0], tokenize=False)] == ["1/1Hia-21+bNoneabab"]


LEGAL = {
    "filters with a context": "{{ messages|selectattr('role', 'in', ['user'])|map(attribute='role')|list }}",
    "an id in a filter": "{{ 12345678901|string }}{{ {'id': 12345678901}|tojson }}{{ 12345678901|round(1) }}",
    "an id in a macro": "{% macro show(one) %}{{ one }}{% endmacro %}{{ show(12345678901) }}",
    "an id in a method": "{{ {}.get('id', 12345678901) }}",
    "long texts in a macro": "{% macro show(a, b) %}{{ b }}{% endmacro %}{{ show('a' * 90000, 'b' * 90000) }}",
    "stars in a format": "{{ '**%s** * 12345' % 'a' }}{{ '**%s**'|format('a') }}{{ '* {} 12345'.format('a') }}",
    "lists, tuples and dicts": "{% set a, b = [1, [2]], {'a': (1, 2)} %}{% for k, v in b.items() %}{{ k }}{{ v }}"
    "{% endfor %}{{ a }}{{ a in [a] }}",
    "a block": "{% set a %}b{{ messages|length }}{% endset %}{{ a }}",
    "a block through filters": "{% set c | upper | replace('D', 'e') %}d{% endset %}{{ c }}",
    "white space of a long text": "{% for m in messages %}{% set a, b = 'a' * 900000, 'b' * 900000 %}"
    "{{ a.strip('\\n').split('</think>')[-1].lstrip('\\n') }}{{ b.replace('c', 'd') }}{% endfor %}",
    "a replacement in a long text": "{{ (('a' * 900000).replace('a', 'bc'))|length }}",
}


@pytest.mark.parametrize("kind", LEGAL)
def test_numbers_and_long_texts_that_cost_nothing_are_written(kind: str) -> None:
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = LEGAL[kind]
    assert rendered(tokenizer, ASKED, False) == [tokenizer.apply_chat_template(ASKED[0], tokenize=False)]
