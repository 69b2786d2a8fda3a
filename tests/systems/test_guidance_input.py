"""A teacher that takes the guidance scale as an input is given the scale that was asked for, by every system,
and is never evaluated without its condition beside it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from stillhouse.api.runs import data_of
from stillhouse.core.errors import StillhouseError
from stillhouse.systems.registry import find, list_systems
from stillhouse.train.loop import Trainer
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from tests.systems.contract_method import contract_of, drawn, small_teacher

ASKED = 3.0
# tokens and restoration have no guidance; lora_distill folds in what such a teacher has folded in already
OTHERS = {"sdtt", "denoising", "lora_distill"}
# a critic reads the teacher's features, a conversion its plain answer
NOT_GUIDED_ALONE = {"flash_diffusion", "hyper_sd", "sdxl_lightning"}
SLUGS = [row.slug for row in list_systems() if row.kind == "method" and row.slug not in OTHERS]


def scale_options(slug):
    return [f.name for f in dataclasses.fields(find(slug)) if f.name.endswith("guidance")]


def calls_of(slug, **scales):
    """What each call of teacher and student was given: the scales (B,) or None, and whether a condition."""
    contract = contract_of(slug)
    contract = dataclasses.replace(contract, network={**contract.network, "guidance_input": True})
    world, teacher = small_teacher(contract)
    method = find(slug)(**{**contract.options, **scales})
    data = data_of(None, world, teacher, method, 0)
    met = SimpleNamespace(teacher=[], student=[])

    def record(module, args, extra):
        cond = args[2] if len(args) > 2 else extra.get("cond")
        empty = cond is None or (
            torch.is_tensor(cond) and not cond.is_floating_point() and bool((cond < 0).any())
        )
        call = extra.get("guidance"), not empty
        if len(args[0]) == 1:
            return  # what finds out the size of features
        if module is method.teacher:
            met.teacher.append(call)
        elif module is method.student:
            met.student.append(call)

    teacher.denoiser.register_forward_pre_hook(record, with_kwargs=True)  # copies keep it
    trainer = Trainer(method, teacher, data, Recipe(steps=4, batch=4), quiet=True)
    drawn(trainer, trainer.fit())
    return met


@pytest.mark.parametrize("slug", SLUGS)
def test_the_scale_is_the_one_that_was_asked_for(slug):
    names = scale_options(slug)
    met = calls_of(slug, **dict.fromkeys(names, ASKED))
    assert met.teacher and all(conditional for _, conditional in met.teacher)
    scales = [w for w, _ in met.teacher if w is not None]
    assert bool(scales) == bool(names)
    if slug == "icd":  # which learns scales from 1 up on the one path, and 1 alone on the other
        assert all(bool(((w >= 1) & (w <= ASKED)).all()) for w in scales)
        assert any(bool((w == 1).all()) for w in scales) and any(bool((w > 1).any()) for w in scales)
        assert all(w is not None for w, _ in met.student)  # what is not guided is at 1, not at a default
    else:
        assert all(torch.equal(w, torch.full_like(w, ASKED)) for w in scales)
    if names and slug not in NOT_GUIDED_ALONE:
        assert len(scales) == len(met.teacher)


@pytest.mark.parametrize("slug", [slug for slug in SLUGS if "low_guidance" in scale_options(slug)])
def test_a_range_of_scales_reaches_teacher_and_student_alike(slug):
    met = calls_of(slug, low_guidance=2.0, high_guidance=4.0)
    assert all(conditional for _, conditional in met.teacher)
    given = [w for w, _ in met.teacher if w is not None]
    assert given and all(bool(((w >= 2) & (w <= 4)).all()) for w in given)
    if find(slug)().make_student.__func__ is not Method.make_student:  # the student takes the scale
        learnt = [w for w, _ in met.student if w is not None]
        assert all(any(set(w.tolist()) <= set(own.tolist()) for own in learnt) for w in given)


def test_a_network_with_a_scale_of_its_own_is_not_given_the_number_1():
    for slug in ("dmd2", "lcm", "sid"):
        assert all(
            w is None and c for w, c in calls_of(slug, **dict.fromkeys(scale_options(slug), 1.0)).teacher
        )


def test_what_has_no_second_estimate_is_refused():
    with pytest.raises(StillhouseError, match="no second evaluation to save"):
        calls_of("lora_distill")
    with pytest.raises(StillhouseError, match="no second estimate for the negative prompts"):
        calls_of("snoopi", nasa=0.5)
    with pytest.raises(StillhouseError, match="one guidance scale as an input"):
        calls_of("livetalk", guidance=3.0, sound_guidance=2.0)
