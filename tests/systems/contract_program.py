"""The contract that every program keeps: its parts are runs that a stop and a resume leave bit for bit as
they were, and join to one model, which keeps what an operation's product keeps."""

import pytest
import torch

from stillhouse.api.runs import data_of
from stillhouse.checks.runner import load_check
from stillhouse.core.errors import StillhouseError
from stillhouse.opening import load
from stillhouse.systems.registry import find, get_system
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world
from tests.systems.contract_method import (
    check_every_loss_has_an_oracle,
    check_it_refuses_bad_options_in_one_sentence,
    small_teacher,
)
from tests.systems.contract_operation import (
    check_its_description_makes_it_again,
    conditions,
    products_sample,
    reopens,
)

STEPS = 6  # iterations of the whole program


def run_program(kind, contract, folder, stop=None):
    """The joined model and the data; ``stop``: part and step at which the run is interrupted. A part that is
    finished is not run again."""
    world, teacher = small_teacher(contract)
    program = kind(**contract.options)
    data = data_of(None, world, teacher, program, 0)
    models, made = {"teacher": teacher, **contract.models(teacher)}, {}
    parts = program.parts(models, data)
    names = [part.name for part in parts]
    assert len(set(names)) == len(names) and all(part.share > 0 for part in parts)
    total = sum(part.share for part in parts)
    for part in parts:
        out = folder / part.name
        if (out / "model").is_dir():
            made[part.name] = load(out / "model")
            continue
        student = made[part.student].denoiser.copy() if part.student else None
        if student is None and part.network:
            network = {**contract.network, **part.network}
            student = get_world(**contract.world).network(contract.process, kind=contract.kind, **network)
        steps = max(3, round(STEPS * part.share / total))
        recipe = Recipe(steps=steps, batch=8, save_every=1, log_every=1, lr=dict(part.lr))

        def halt(trainer, step, name=part.name):
            trainer.stopping = (name, step) == stop

        trainer = Trainer(
            part.method,
            teacher,
            part.data or data,
            recipe,
            student=student,
            out=out,
            quiet=True,
            on_step=halt,
        )
        trainer.fit(resume=out.is_dir())
        made[part.name] = load(out / "model")
    return program.join(models, made), data


def program_keeps_its_contract(kind, contract, folder):
    """All of it for one class; :data:`CHECKS` calls it for a slug."""
    state = torch.get_rng_state()
    product, data = run_program(kind, contract, folder / "whole")
    assert torch.equal(state, torch.get_rng_state()), "it drew from torch's global state"

    class Given:
        pass

    given = Given()
    given.data = data
    cond = conditions(product, given, 4)
    products_sample(product, cond, contract.still)
    x = product.sample(4, cond, seed=3)
    assert torch.equal(x, reopens(product, cond, folder)), "a fresh process samples other bits"
    for name in (p.name for p in kind(**contract.options).parts(*given_to(contract))):
        out = folder / f"stopped-{name}"
        with pytest.raises(StillhouseError, match="Stopped after step"):
            run_program(kind, contract, out, stop=(name, 0))
        again, _ = run_program(kind, contract, out)
        assert torch.equal(x, again.sample(4, cond, seed=3)), f"a stop in '{name}' changes what comes out"


def given_to(contract):
    world, teacher = small_teacher(contract)
    return {"teacher": teacher, **contract.models(teacher)}, data_of(
        "world", world, teacher, find("denoising")(), 0
    )


def check_its_product_and_its_resumes(slug, runs, tmp_path):
    program_keeps_its_contract(find(slug), load_check(slug).CONTRACT, tmp_path)


def check_its_record_is_true(slug, runs, tmp_path):
    kind, row = find(slug), get_system(slug)
    assert (row.kind, row.needs, row.worlds) == (kind.kind, kind.needs, kind.worlds)
    program = kind(**load_check(slug).CONTRACT.options)
    parts = program.parts(*given_to(load_check(slug).CONTRACT))
    for need in ("teacher", "data"):
        asked = any(part.method.requires(need) for part in parts)
        assert asked <= program.requires(need), f"a part needs {need}, the program's record names none"


CHECKS = [
    check_its_product_and_its_resumes,
    check_its_record_is_true,
    check_every_loss_has_an_oracle,
    check_its_description_makes_it_again,
    check_it_refuses_bad_options_in_one_sentence,
]
