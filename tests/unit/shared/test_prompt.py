"""Prompts: what is found when a config is written, and what a call gets."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxplane.errors import VoxplaneError
from voxplane.prompt import BUILTINS, check_prompt, render_prompt
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import PromptConfig

DECLARED = {"name": "Bob", "count": "3"}
CHECK_SECONDS_MAX = 2.0


def prompt(instructions: str, **variables: str) -> PromptConfig:
    """A prompt with the variables name and count, and others."""
    return PromptConfig(instructions=instructions, dynamic_vars=DECLARED | variables)


def refusal(instructions: str, **variables: str) -> list[str]:
    """What check_prompt says against the instructions, all of it at their path."""
    with pytest.raises(VoxplaneError) as caught:
        check_prompt(prompt(instructions, **variables))
    assert caught.value.reason == reason_pb2.ERROR_REASON_INVALID_PROMPT
    assert {each.field for each in caught.value.violations} == {"prompt_config.instructions"}
    assert caught.value.violations[0].description in caught.value.message
    return [each.description for each in caught.value.violations]


def accepted(config: PromptConfig) -> bool:
    """Whether check_prompt takes the prompt."""
    try:
        check_prompt(config)
    except VoxplaneError:
        return False
    return True


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        ("one\ntwo {{ missing }}", "line 2: variable 'missing' is not in dynamic_vars"),
        (
            "{% if name == 'x' %}\n{{ missing }}{% endif %}",
            "line 2: variable 'missing' is not in dynamic_vars",
        ),
        ("{% for x in missing %}{% endfor %}", "line 1: variable 'missing' is not in dynamic_vars"),
        ("{{ missing | default: 'x' }}", "line 1: variable 'missing' is not in dynamic_vars"),
        ("{{ name | append: missing }}", "line 1: variable 'missing' is not in dynamic_vars"),
        (
            "{% case name %}{% when missing %}{% endcase %}",
            "line 1: variable 'missing' is not in dynamic_vars",
        ),
        ("{{ now }}", "line 1: variable 'now' is not in dynamic_vars"),
        ("{{ x }}{% assign x = 1 %}", "line 1: variable 'x' may have no value here"),
        (
            "{% if name %}{% assign x = 1 %}{% endif %}{{ x }}",
            "line 1: variable 'x' may have no value here",
        ),
        ("{% for i in (1..2) %}{% endfor %}{{ i }}", "line 1: variable 'i' may have no value here"),
        ("{{ name.first }}", "line 1: variable 'name' is a text, and a text has nothing but size"),
        ("{{ [name] }}", "line 1: a variable's name must be written out"),
    ],
)
def test_a_variable_without_a_value_is_found(instructions: str, said: str) -> None:
    """The violation names the variable and the line, also where no rendering with the defaults comes."""
    assert refusal(instructions) == [said]


def test_all_missing_variables_are_told() -> None:
    """There is a violation for each, in the template's order."""
    said = refusal("{{ b }}\n{% if false %}{{ a }}{% endif %}")
    assert said == [
        "line 1: variable 'b' is not in dynamic_vars",
        "line 2: variable 'a' is not in dynamic_vars",
    ]


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        ("a\n{{ name ", "line 2: {{ without its }}"),
        ("a\n{% if name ", "line 2: {% without its %}"),
        ("{% raw %}", "line 1: raw without its endraw"),
        ("{% comment %}", "line 1: comment without its endcomment"),
        ("{% include 'x' %}", "line 1: there is no tag 'include'"),
        ("{% render 'x' %}", "line 1: there is no tag 'render'"),
        ("{% else %}", "line 1: unexpected tag 'else'"),
        ("{% if name %}", "expected tag endif, found end of expression"),
        ("{% break %}", "line 1: {% break %} outside of a loop"),
        ("{% if name == 'x' %}{{ 1 | shout }}{% endif %}", "line 1: there is no filter 'shout'"),
        ("{{ name | upcase: 1, 2 }}", "line 1: filter 'upcase' cannot take what it is given"),
        ("{{ 1 | divided_by: 0 }}", "line 1: filter 'divided_by' cannot take what it is given"),
        ("{{ 'inf' | ceil }}", "a filter cannot take what it is given"),
    ],
)
def test_mistakes_are_found(instructions: str, said: str) -> None:
    """Syntax, tags and filters are checked before a call comes."""
    assert refusal(instructions) == [said]


HEAVY = {
    "a long range": "{% for i in (1..2000) %}{% endfor %}",
    "a long range where the rendering does not come": "{% if name == 'x' %}{{ (1..2000) | join }}{% endif %}",
    "a range that variables make long": "{% for i in (1..big) reversed %}{% endfor %}",
    "nested loops": "{% for a in (1..50) %}{% for b in (1..50) %}{% endfor %}{% endfor %}",
    "loops in a row": "{% for a in (1..900) %}x{% endfor %}" * 2,
    "a loop over many tags": "{% for i in (1..999) %}" + "{% if 1 == 2 %}{% endif %}" * 900 + "{% endfor %}",
    "a loop over many filters": "{% for i in (1..999) %}{{ name" + " | upcase" * 900 + " }}{% endfor %}",
    "much text": "{% for i in (1..999) %}{{ long }}{% endfor %}",
    "a text that doubles": "{% assign s = 'x' %}"
    + "{% for i in (1..99) %}{% assign s = s | append: s %}{% endfor %}",
    "a number that squares": "{% assign x = 9 %}"
    + "{% for i in (1..99) %}{% assign x = x | times: x %}{% endfor %}",
    "a replacement that multiplies": "{{ long | replace: '', long }}",
    "a join that multiplies": "{{ long | split: ' ' | join: long }}",
    "a long list": "{{ long | split: '' | sort }}",
    "a long date": "{{ long | date: '%Y' }}",
    "many tags": "{{ name }}" * 2001,
    "deep nesting": "{% if name %}" * 25 + "{% endif %}" * 25,
    "a deep expression": "{{ name" + "[name" * 9000 + "]" * 9000 + "}}",
    "a long condition": "{% if " + "name and " * 7000 + "name %}{% endif %}",
    "unclosed outputs": "{{" * 32000,
    "unclosed blocks": "{% raw %}" * 7000,
    "unclosed docs": "{% doc %}" * 7000,
}


@pytest.mark.parametrize("instructions", HEAVY.values(), ids=HEAVY)
def test_limits_hold(instructions: str) -> None:
    """What costs too much is refused, and refusing it does not cost much."""
    started = time.process_time()
    [said] = refusal(instructions, big="99999999999", long="ab " * 1300)
    assert time.process_time() - started < CHECK_SECONDS_MAX
    assert any(word in said for word in ("more than", "too much", "without", "there is no tag")), said


@pytest.mark.parametrize(
    ("instructions", "text"),
    [
        ("Call {{ name }}: {{ name.size }}.", "Call Bob: 3."),
        ("{% for i in (1..count) %}{{ i }}{% unless forloop.last %}, {% endunless %}{% endfor %}", "1, 2, 3"),
        ("{% if name contains 'B' and count == '3' %}yes{% else %}no{% endif %}", "yes"),
        (
            "{% if name %}{% assign x = 1 %}{% else %}{% assign x = 2 %}{% endif %}{{ x }}",
            "1",
        ),
        ("{% case count %}{% when '3' %}three{% else %}other{% endcase %}", "three"),
        ("{% assign name = name | split: 'o' %}{{ name.first }}-{{ name[1] }}", "B-b"),
        ("{% capture all %}{{ name }}!{% endcapture %}{{ all | upcase }}", "BOB!"),
        (
            "{% raw %}{{ as is }}{% endraw %}{% comment %}{{ missing }}{% endcomment %}{% # note %}",
            "{{ as is }}",
        ),
        ("Answer in JSON like {a: 1}, at 100%.", "Answer in JSON like {a: 1}, at 100%."),
        ("<b>&</b>", "<b>&</b>"),
        ("", ""),
    ],
)
def test_templates_render(instructions: str, text: str) -> None:
    """What passes the check renders, without escapes for HTML."""
    check_prompt(prompt(instructions))
    assert render_prompt(prompt(instructions), {}, {}).text == text


def test_the_callers_values_come_before_the_defaults() -> None:
    """What the caller did not give is told, with the defaults that were used."""
    rendered = render_prompt(
        prompt("{{ name }} {{ count }} {{ user_id }}"), {"name": "Ann"}, {"user_id": "u1"}
    )
    assert rendered.text == "Ann 3 u1"
    assert rendered.defaulted == {"count": "3"}


def test_nobody_sets_a_builtin() -> None:
    """A tenant's or a user's id is the call's, whatever the caller and the config say."""
    config = prompt("{{ tenant_id }} {{ user_id }}", tenant_id="other")
    assert render_prompt(config, {"user_id": "forged"}, {"tenant_id": "t1"}).text == "t1 "
    assert render_prompt(config, {"user_id": "forged"}, {"tenant_id": "t1"}).defaulted == {}


def test_builtins_are_declared() -> None:
    """Every builtin may be used without being in dynamic_vars."""
    check_prompt(PromptConfig(instructions="".join(f"{{{{ {name} }}}}" for name in BUILTINS)))


def test_a_limit_that_the_callers_values_break_is_an_error_of_the_call() -> None:
    """The check cannot know the caller's values, so the rendering holds the limits too."""
    config = prompt("{% for i in (1..count) %}{{ i }}{% endfor %}")
    check_prompt(config)
    with pytest.raises(VoxplaneError) as caught:
        render_prompt(config, {"count": "123456789"}, {})
    assert "123456789" not in str(caught.value)


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "instructions",
    [
        "{{ 'hunter2hunter2' }",
        "{% if 'hunter2hunter2' == %}{% endif %}",
        "{{ 'hunter2hunter2' 'hunter2hunter2' }}",
        "{% assign 'hunter2hunter2' = 1 %}",
        "{{ 'hunter2hunter2' | plus: 1 | upcase: 1 }}",
        "{{ value | divided_by: 0 }}",
        "{{ [value] }}",
        "{% case 'hunter2hunter2' %}{% when %}{% endcase %}",
        '{{ name "hunter2hunter2" }}',
        "{{ name ~ 'hunter2hunter2' }}",
    ],
)
def test_messages_keep_the_text_and_the_values(instructions: str) -> None:
    """No text of the template and no value of a variable is repeated."""
    said = refusal(instructions, value=SECRET)
    assert not any(SECRET in each for each in said)


@given(st.text("{}% |'\"a1.:-[]()\n=<", max_size=60) | st.text(max_size=40))
def test_any_text_is_rendered_or_refused(instructions: str) -> None:
    """Whatever is written, the answer is a text or INVALID_PROMPT."""
    config = prompt(instructions, a="x")
    if accepted(config):
        render_prompt(config, {}, {})


PIECES = (
    "{{ name }}",
    "{{ x }}",
    "{% assign x = 1 %}",
    "{% if name == 'Bob' %}",
    "{% elsif count == '3' %}",
    "{% else %}",
    "{% endif %}",
    "{% for i in (1..2) %}",
    "{{ i }}",
    "{% continue %}",
    "{% endfor %}",
    "{% case count %}",
    "{% when '3' %}",
    "{% endcase %}",
    "{% capture x %}",
    "{% endcapture %}",
    "{% unless name == 'Bob' %}",
    "{% endunless %}",
)


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from(["Bob", "Ann"]), st.sampled_from("34"))
def test_what_passes_the_check_never_lacks_a_value(pieces: list[str], name: str, count: str) -> None:
    """A template that was accepted renders for every caller."""
    config = prompt("".join(pieces))
    if accepted(config):
        render_prompt(config, {"name": name, "count": count}, {})


@pytest.mark.parametrize(
    "instructions",
    [
        "{% assign a = long | split: '' %}" + "{{ a | uniq | size }}" * 1_000,
        "{% assign a = (1..1000) %}" + "{{ a | sort | size }}" * 1_500,
        "".join(f"{{% assign a{number} = 1 %}}" for number in range(1_900)),
        "{% for i in (1..900) %}" + "{% if long contains name %}x{% endif %}" * 25 + "{% endfor %}",
    ],
)
def test_work_that_grows_with_a_list_is_counted(instructions: str) -> None:
    """What is quadratic in the library is counted as that, and refused before it takes long."""
    began = time.perf_counter()
    (said,) = refusal(instructions, long="".join(map(chr, range(0x4E00, 0x4E00 + 990))))
    assert said.endswith("exceeds a limit: too much work")
    assert time.perf_counter() - began < CHECK_SECONDS_MAX


PIECES = st.sampled_from(
    (
        *(
            "{{ name }}",
            "{{name}}",
            "{{- count -}}",
            "{{ tenant_id }}",
            "{{ missing }}",
            "{{ true }}",
            "{{ nil }}",
        ),
        *(
            "{{ empty }}",
            "{{ and }}",
            "{{{ name }}",
            "{{ name }}}",
            "{{ name",
            "}}",
            "{",
            "{%",
            "{% name %}",
            "{{ }}",
        ),
        *(
            "{{ name.size }}",
            "{{ name | upcase }}",
            "{{\nname\n}}",
            "a",
            " ",
            "\n",
            "{{ 'x' }}",
            "{{ forloop }}",
        ),
    )
)


@given(st.lists(PIECES, max_size=6).map("".join))
def test_a_prompt_of_names_alone_is_judged_like_any_other(instructions: str) -> None:
    """What is taken without being read is what is taken when it is read."""
    words = {"true": "x", "nil": "x", "empty": "x", "and": "x", "forloop": "x"}
    read = "{% if name %}{% endif %}"
    assert accepted(prompt(instructions, **words)) == accepted(prompt(read + instructions, **words))


def test_names_that_make_too_much_text_are_found() -> None:
    """The longest text counts where a prompt has nothing but names, too."""
    assert "more than" in refusal("{{ long }}" * 32, long="x" * 8_000)[0]
    assert accepted(prompt("{{ long }}" * 30, long="ä" * 1_000))
