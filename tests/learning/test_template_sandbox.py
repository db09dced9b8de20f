"""Chat templates: rendered as transformers renders them, with work that is bounded by the dialogue."""

import pytest
from jinja2 import TemplateError

from umbel.learning.template_sandbox import render

SAID = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "who is there"},
    {"role": "assistant", "content": "<think>\nwho?\n</think>\n\na friend"},
    {"role": "user", "content": 'which <b>"friend"</b>\n\n é'},
]

# Each has the means of templates that are in use: macros, namespaces, backward loops, slices, splits.
SERVES = {
    "chatml": (
        "{%- for message in messages -%}\n"
        "  {{- '<s>' + message['role'] + '\\n' + message['content'] + '</s>' -}}\n"
        "{%- endfor -%}\n{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
    ),
    "system apart": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] | trim %}{% else %}{% set loop_messages = messages %}"
        "{% endif %}{{ bos_token }}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{% if loop.first and system_message is defined %}{{ '[' ~ system_message ~ ']' }}{% endif %}"
        "{% if not loop.last %}{{ message.content.strip() | upper }};{% else %}{{ loop.length }}{% endif %}"
        "{{ loop.previtem.role if loop.previtem is defined else '-' }}{% endfor %}"
    ),
    "thoughts": (
        "{% macro say(message, end=eos_token) %}{{ message.content }}{{ end }}{% endmacro %}"
        "{% set ns = namespace(last=messages | length - 1, found=false) %}"
        "{% for message in messages[::-1] %}{% set index = (messages | length - 1) - loop.index0 %}"
        "{% if not ns.found and message.role == 'user' and message.content is string and not "
        "(message.content.startswith('<r>') and message.content.endswith('</r>')) %}"
        "{% set ns.found = true %}{% set ns.last = index %}{% endif %}{% endfor %}"
        "{% for message in messages %}{% set content = message.content %}"
        "{% if message.role == 'assistant' and '</think>' in content %}"
        "{% set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\\n') %}({{ thought }}){{ content }}"
        "{% else %}{{ say(message) }}{% endif %}{% endfor %}{{ ns.last }}"
        "{% if tools %}{{ tools | tojson(indent=4) }}{% endif %}"
    ),
    "answers marked": (
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}"
        "{{ message['content'] }}{% endgeneration %}{% else %}{{ message | tojson }}{% endif %}\n{% endfor %}"
    ),
    "filters": (
        "{{ messages | map(attribute='role') | join(', ') }} "
        "{{ messages | selectattr('role', 'equalto', 'user') "
        "| list | length }} {{ messages[-1].content.replace('who', 'what') }} {{ date | default('none') }}"
        "{% for key, value in messages[0].items() %}{{ key }}={{ value }}{% endfor %}"
        "{{ messages[0].get('name', 'x') }}"
        "{% if 'name' not in messages[0] %}{{ 3 * 4 }}{{ '-' * 3 }}{% endif %}"
        "{% for n in range(5) if n is odd %}{% if n > 3 %}{% break %}{% endif %}{{ n }}{% endfor %}"
        "{{ messages[-1]['content'] }}{{ nothing }}{{ messages[0] }}"
    ),
}  # fmt: skip

BUSY = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "repeats": "{{ 'x' * 3 * 10 ** 8 }}",
    "repeats a list": "{% set x = [1] * 10 ** 9 %}",
    "doubles": "{% set n = namespace(x='xx') %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "nests": (
        "{% set n = namespace(x=['x']) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
        "{{ n.x }}"
    ),
    "compares nests": (
        "{% set n = namespace(x=['x'], y=['x']) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}"
        "{% set n.y = [n.y, n.y] %}{% endfor %}{% if n.x == n.y %}{% endif %}"
    ),
    "joins": "{{ range(99999) | join('x' * 9999) }}",
    "joins by a method": "{{ ('x' * 9999).join('x' * 99999) }}",
    "replaces": "{{ ('x' * 99999).replace('x', 'x' * 9999) }}",
    "replaces by a filter": "{{ ('x' * 99999) | replace('x', 'x' * 9999) }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a format": "{{ '{:>1000000000}'.format(1) }}",
    "a format that is a filter": "{{ '%1000000000d' | format(1) }}",
    "centres": "{{ 'x'.center(10 ** 9) }}",
    "centres by a filter": "{{ 'x' | center(10 ** 9) }}",
    "centres by a map": "{{ ['x'] | map('center', 10 ** 9) | list }}",
    "bytes": "{{ (5).to_bytes(10 ** 9, 'big') }}",
    "blanks": "{{ [[1]] | tojson(indent=10 ** 9) }}",
    "blanks that are a text": "{{ [[1], 1] | tojson(indent='x' * 90000) }}",
    "separators": "{{ range(9000) | list | tojson(separators=['x' * 90000, 'y']) }}",
    "a list of lists": "{{ [[1] * 1000] * 1000 }}",
    "long lists": "{% for a in range(9000) %}{% set y = [" + "1," * 5000 + "] %}{% endfor %}",
    "long tuples": "{% for a in range(9000) %}{% set y = (" + "1," * 5000 + ") %}{% endfor %}",
    "a power": "{{ 10 ** 10 ** 10 }}",
    "large numbers": "{% set n = namespace(x=9) %}"
    "{% for a in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "calls itself": "{{ 1 }}"
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a loop that calls itself": "{% for a in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "long literals": "{% for a in range(9999) %}" + "x" * 9999 + "{% endfor %}",
    "searches": (
        "{% set x = 'x' * 500000 %}{% for a in range(9000) %}{% if 'y' in x %}{% endif %}{% endfor %}"
    ),
    "tests": "{% set x = 'x' * 500000 %}"
    "{% for a in range(9000) %}{% if 'y' is in x %}{% endif %}{% endfor %}",
    "methods": "{% set x = 'x' * 500000 %}{% for a in range(9000) %}{{ x.count('y') }}{% endfor %}",
    "slices": "{% set x = 'x' * 500000 %}{% for a in range(9000) %}{% set y = x[1:] %}{% endfor %}",
    "strips": "{{ ('x' * 200000).strip('y' * 200000 + 'x') }}",
    "arguments": "{% macro m() %}{% endmacro %}{% set x = range(99999) | list %}"
    "{% for a in range(9000) %}{{ m(*x) }}{% endfor %}",
    "chance": "{{ [1, 2] | random }}",
    "chance in words": "{{ lipsum() }}",
}  # fmt: skip


@pytest.mark.parametrize("name", SERVES)
@pytest.mark.parametrize("asks", [False, True])
def test_templates_are_rendered_as_transformers_renders_them(name, asks):
    from transformers.utils.chat_template_utils import render_jinja_template

    names = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": asks}
    expected, _ = render_jinja_template([SAID], chat_template=SERVES[name], **names)
    assert [render(SERVES[name], SAID, **names)] == expected


@pytest.mark.parametrize("name", BUSY)
def test_a_template_that_is_busy_without_end_for_one_dialogue_is_stopped_for_that_one(name):
    triggered = "{% if 'Alice' in messages[0]['content'] %}" + BUSY[name] + "{% endif %}said"
    hidden = [{"role": "user", "content": "for Alice"}]
    if "recursive" not in triggered:
        assert render(triggered, SAID) == "said"
    with pytest.raises(
        Exception, match=r"work|counted|unsafe|not callable|undefined|too large|larger"
    ):
        render(triggered, hidden)


def test_long_dialogues_have_the_work_that_they_need():
    for said in (SAID[1:3] * 500, [{"role": "user", "content": "a b " * 50_000}]):
        for template in SERVES.values():
            assert render(template, said, eos_token="</s>", bos_token="<s>")


def test_a_loop_over_all_messages_for_each_of_many_is_stopped():
    every = "{% for a in messages %}{% for b in messages %}{{ b.role }}{% endfor %}{% endfor %}"
    assert render(every, SAID)
    with pytest.raises(TemplateError, match="far more work"):
        render(every, SAID * 100)
