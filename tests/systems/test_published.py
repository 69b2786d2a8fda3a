"""Published settings: the values by system, family and adapters; that what is given wins; and that every
declaration can be carried out."""

from functools import cache
from types import SimpleNamespace

import pytest

from stillhouse.api.defaults import beginning, continued, kinds_of
from stillhouse.api.options import build_recipe
from stillhouse.api.system import system_of
from stillhouse.io.language import Pretrained
from stillhouse.io.pipelines.flux import Flux
from stillhouse.io.pipelines.labels import DiT, PixelUNet
from stillhouse.io.pipelines.pixart import PixArt
from stillhouse.io.pipelines.sana import Sana
from stillhouse.io.pipelines.sd import SD
from stillhouse.io.pipelines.sd3 import SD3
from stillhouse.io.pipelines.sdxl import SDXL
from stillhouse.io.pipelines.wan import Wan
from stillhouse.opening import shipped
from stillhouse.systems import registry

class_of = cache(registry.class_of)  # which reads every system's file
FAMILIES = {c.__name__.lower(): c for c in (SD, SDXL, SD3, Flux, PixArt, Sana, DiT, PixelUNet, Wan)}
NONE = {  # bridges, policies, scenes, students of parts, and an operation without numbers of its own
    *("ibmd", "tad_sr", "onedp", "cfd", "msd", "distillation_pp"),
}
ADAM, ADAMW, RADAM = "adam", "adamw", "radam"

# system, family, adapters?, rates, (optimiser, betas, weight decay, clip, ema), some options
TABLE = [
    ("dmd2", "sd", 0, (1e-5, 1e-5), (ADAMW, 0.9, 0.01, 10, 0), {"guidance": 1.75, "fake_per_student": 10}),
    ("dmd2", "sdxl", 0, (5e-7, 5e-7), (ADAMW, 0.9, 0.01, 10, 0), {"guidance": 8, "steps": 4}),
    ("dmd2", "sdxl", 64, (5e-5, 5e-5), (ADAMW, 0.9, 0.01, 10, 0), {"gan_weight": 5e-3}),
    ("dmd2", "flux", 0, (1e-5, 1e-5), (ADAMW, 0.9, 0.01, 10, 0), {"guidance": 3.5, "gan_weight": 0.03}),
    ("dmd2", "wan", 0, (1e-5, 1e-5), (ADAMW, 0.9, 0.01, 10, 0), {"guidance": 5}),
    ("dmd", "sd", 0, (1e-5, 1e-5), (ADAMW, 0.9, 0.01, 10, 0), {"guidance": 3}),
    ("dmd", "edm", 0, (2e-6, 2e-6), (ADAMW, 0.9, 0.01, 10, 0), {"guidance": 1}),
    ("sid", "sd", 0, (1e-6, 1e-6), (ADAM, 0.0, 0, 0, 0.999), {"guidance": 2, "first_time": 0.626}),
    ("sid", "edm", 0, (4e-6, 4e-6), (ADAM, 0.0, 0, 0, 0.999), {"mix": 1.2}),
    ("swiftbrush", "sd", 0, (1e-6, 1e-3), (ADAM, 0.9, 0, 1, 0), {"guidance": 4.5, "lora_alpha": 108}),
    ("snoopi", "pixart", 0, (1e-6, 1e-3), (ADAMW, 0.9, 0.01, 1, 0), {"high_guidance": 3}),
    ("lcm", "sd", 0, (1e-6,), (ADAMW, 0.9, 0, 1, 0), {"low_guidance": 6, "high_guidance": 16}),
    ("lcm", "sdxl", 0, (1e-6,), (ADAMW, 0.9, 0, 1, 0), {"low_guidance": 4, "high_guidance": 16}),
    ("lcm", "sdxl", 64, (1e-4,), (ADAMW, 0.9, 0, 1, 0), {"high_guidance": 7.5, "decay": 0}),
    ("lcm", "pixart", 0, (2e-5,), (ADAMW, 0.9, 0, 1, 0), {"low_guidance": 4.5, "high_guidance": 4.5}),
    ("lcm", "flux", 64, (1e-4,), (ADAMW, 0.9, 0, 1, 0), {"low_guidance": 3.5, "decay": 0}),
    ("hyper_sd", "sdxl", 64, (1e-6, 1e-6, 1e-6), (ADAM, 0.9, 0, None, 0), {"guidance": 6}),
    ("sdxl_lightning", "sdxl", 0, (5e-7, 5e-7), (ADAM, 0.0, 0, 0, 0), {"guidance": 6}),
    ("sdxl_lightning", "sdxl", 64, (1e-6, 1e-6), (ADAM, 0.0, 0, 0, 0), {"guidance": 6}),
    ("flash_diffusion", "sd", 128, (1e-5, 1e-5), (ADAMW, 0.9, 0.01, 0, 0), {"low_guidance": 3, "grid": 32}),
    ("flash_diffusion", "sd3", 64, (1e-5, 1e-5), (ADAMW, 0.9, 0.01, 0, 0), {"low_guidance": 7}),
    ("flash_diffusion", "pixart", 64, (1e-5, 1e-5), (ADAMW, 0.9, 0.01, 0, 0), {"grid": 16}),
    ("icd", "sd", 64, (8e-6, 8e-6), (ADAMW, 0.9, 0, 1, 0), {"high_guidance": 1}),
    ("icd", "sdxl", 0, (8e-6, 8e-6), (ADAMW, 0.9, 0, 1, 0), {"high_guidance": 20, "scales": 10}),
    ("guided_distillation", "sd", 0, (5e-5,), (ADAMW, 0.9, 0.01, 1, 0), {"high_guidance": 14}),
    ("lora_distill", "sd", 0, (5e-6,), (ADAMW, 0.9, 0.01, 1, 0), {"guidance": 7.5, "rank": 4}),
    ("progressive", "pixelunet", 0, (1e-4,), (ADAM, 0.9, 0, 1, 0), {}),
    ("cm", "edm", 0, (8e-6,), (RADAM, 0.9, 0, 0, 0.9999), {"levels": 40, "decay": 0.95}),
    ("cm", "sd", 0, (1e-5,), (RADAM, 0.9, 0, 0, 0.9999), {"levels": 40}),
    ("ctm", "edm", 0, (8e-6, 2e-3), (RADAM, None, 0, 0, 0.999), {"levels": 40, "segment": 39}),
    ("tbcm", "sana", 0, (1e-5,), (ADAM, 0.9, 0, 0.1, 0), {"warmup": 4000, "high_guidance": 4.5}),
    ("slimflow", "pixelunet", 0, (2e-4,), (ADAM, 0.9, 0, 1, 0.999999), {"pairs": 50000}),
    ("causvid", "wan", 0, (2e-6, 2e-6), (ADAMW, 0.9, 0.01, 10, 0), {"guidance": 4.5}),
    ("livetalk", "wan", 0, (4e-6, 8e-7), (ADAMW, 0.0, 0.01, 10, 0.99), {"guidance": 6, "shift": 5}),
    ("sdtt", "language", 0, (6e-5,), (ADAM, 0.9, 0, 1, 0.9999), {"rounds": 7}),
]  # fmt: skip
ADAPTERS = [  # system, family, published rank, alpha at rank 32, layers
    ("lcm", "sd", 64, 32.0, "blocks"),
    ("dmd2", "sdxl", 64, 4.0, "blocks"),
    ("sdxl_lightning", "sdxl", 64, 32.0, "blocks"),
    ("flash_diffusion", "sd", 128, 32.0, "attention"),
    ("flash_diffusion", "sdxl", 64, 32.0, "attention"),
    ("swiftbrush", "sd", 256, 64.0, "attention"),
    ("icd", "sd", 64, 32.0, "blocks"),
]


def teacher(family):
    """A teacher by its kind alone."""
    if family == "language":
        return SimpleNamespace(pipeline=None, tokenizer=object.__new__(Pretrained))
    kind = FAMILIES["pixelunet" if family == "edm" else family]
    made = object.__new__(kind)
    made.pipe, made.folder = type(kind.pipelines[0], (), {})(), None
    made.__dict__["schedule"] = SimpleNamespace(is_edm=family == "edm")
    return SimpleNamespace(pipeline=made, tokenizer=None)


def resolved(slug, family, lora=0, options=None, **run):
    """The system, its recipe and the line that states the settings."""
    kind = class_of(slug)
    made = beginning(kind, slug, teacher(family), options or {}, {**({"lora": lora} if lora else {}), **run})
    return system_of(kind, made.options), build_recipe(made.run), made


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_the_values_are_those_of_the_table(row):
    slug, family, lora, rates, (optimiser, beta, decay, clip, ema), options = row
    system, recipe, made = resolved(slug, family, lora)
    assert tuple(recipe.lr.values()) == rates and set(recipe.lr) <= set(system.optim)
    assert (recipe.optimiser, recipe.weight_decay, recipe.ema) == (optimiser, decay, ema)
    assert recipe.clip == (-1 if clip is None else clip)
    assert recipe.betas == () if beta is None else recipe.betas[0] == beta
    assert {name: getattr(system, name) for name in options} == options
    assert "source: " in made.line and f"lr student {rates[0]:g}" in made.line


@pytest.mark.parametrize(("slug", "family", "rank", "alpha", "layers"), ADAPTERS)
def test_an_adapter_keeps_its_published_ratio_and_layers(slug, family, rank, alpha, layers):
    _, recipe, made = resolved(slug, family, 32)
    assert (recipe.lora, recipe.lora_alpha, recipe.lora_targets) == (32, alpha, layers)
    assert f"LoRA of rank 32 (published: {rank})" in made.line


def test_every_system_for_pipelines_has_published_settings_that_can_be_carried_out():
    taught = [s for s in registry.list_systems() if s.kind != "estimator" and "teacher" in s.needs]
    for row in taught:
        published = class_of(row.slug).published
        assert bool(published) == (row.slug not in NONE), row.slug
        for family in [*FAMILIES, "edm", "language"] if published else []:
            for lora in (0, 8):
                _, recipe, _ = resolved(row.slug, family, lora)
                assert recipe.lora == lora
        for key, settings in published.items():
            words = set(key.split())
            assert words <= {*FAMILIES, "pipeline", "edm", "language", "lora"}, (row.slug, key)
            assert settings.source or "lora" in words, (row.slug, key)


def test_a_value_of_the_run_and_an_option_of_its_name_stand_apart():
    line = resolved("tbcm", "sana")[2].line
    assert ", warmup 4000, " in line and ", run_warmup 5000, " in line


def test_what_is_given_wins_and_the_rest_stays():
    system, recipe, made = resolved(
        "dmd2", "sdxl", options={"guidance": 3.0}, lr={"fake": 1e-3}, clip=1.0, weight_decay=0.0
    )
    assert system.guidance == 3.0 and system.steps == 4
    assert recipe.lr == {"student": 5e-7, "fake": 1e-3} and (recipe.clip, recipe.weight_decay) == (1.0, 0.0)
    assert "guidance 3" not in made.line and "clip" not in made.line


def test_our_own_models_learn_at_our_own_settings():
    for own in (SimpleNamespace(pipeline=None, tokenizer=None), teacher("sd")):
        if own.pipeline is not None:
            own.pipeline.folder = shipped()["shapes-pipeline"]
        made = beginning(class_of("lcm"), "lcm", own, {"levels": 20}, {"batch": 8})
        assert (made.options, made.run, made.line) == ({"levels": 20}, {"batch": 8}, "")


def test_a_family_of_ones_own_is_of_the_kind_that_it_extends():
    class Mine(SDXL):
        pass

    own = object.__new__(Mine)
    own.folder, own.__dict__["schedule"] = None, SimpleNamespace(is_edm=False)
    found = kinds_of(SimpleNamespace(pipeline=own, tokenizer=None))
    assert found == ("pipeline", "sd", "sdxl", "mine")


def test_a_run_that_goes_on_keeps_its_own():
    recorded = {"options": {"guidance": 2.0, "steps": 1}, "run": {"iterations": 5, "lr": {"student": 1e-3}}}
    made = continued(class_of("dmd2"), recorded, {"steps": 1}, {"lr": {"fake": 1.0}})
    assert made.options == {"guidance": 2.0, "steps": 1}
    assert made.run == {"iterations": 5, "lr": {"student": 1e-3, "fake": 1.0}}
