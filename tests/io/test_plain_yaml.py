import pytest
import yaml

from stillhouse.io.plain_yaml import CHARACTERS, NODES, yaml_of


@pytest.mark.parametrize(
    "text",
    ["", "a: 1", "[1, 2.5, null, true]", "a: &x {b: [1, 2]}\nc: *x\nd: *x", "2026-11-30", "- a\n- {b: c}"],
)
def test_plain_data_is_as_yaml_has_it(text):
    assert yaml_of(text) == yaml.safe_load(text)


def laughs(deep):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, deep)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (laughs(9), "stands for more"),
        ("a: &a [*a]", "stands for more"),
        ("[" * 20_000, "deeply"),
        ("{a: " * 20_000, "deeply"),
        ("a" * (CHARACTERS + 1), "characters"),
        (f"[{'1,' * (NODES + 1)}]", "stands for more"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: [", "expected"),
        ("a: 1\n---\nb: 2", "single document"),
    ],
)
def test_what_is_no_settings_is_refused_at_once(text, sentence):
    with pytest.raises(yaml.YAMLError, match=sentence):
        yaml_of(text)
