"""The contract that every operation keeps: a product that samples at its promised cost, saves, opens again in
a fresh process with the same bits, repeats itself, refuses bad options, draws nothing from global state, and
leaves the models that it was given as they were."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from stillhouse.api.runs import data_of
from stillhouse.checks.runner import load_check
from stillhouse.core.denoiser import count_calls
from stillhouse.core.errors import StillhouseError
from stillhouse.opening import load
from stillhouse.systems.base import Work
from stillhouse.systems.registry import find, get_system
from tests.systems.contract_method import check_it_refuses_bad_options_in_one_sentence, small_teacher

REOPEN = """
import sys, torch
from stillhouse.opening import load
x = load(sys.argv[1]).sample(4, torch.load(sys.argv[2], weights_only=True), seed=3)
torch.save(x, sys.argv[3])
"""


def setting(kind, contract):
    """An operation, the models that it is given, and what it works with."""
    world, teacher = small_teacher(contract)
    operation = kind(**contract.options)
    data = data_of(None, world, teacher, operation, 0)
    models = {"teacher": teacher, **contract.models(teacher)}
    return operation, models, Work(data, seed=0, quiet=True)


def conditions(product, work, n):
    return work.data.examples(n) if product.cond_kind else None


def weights(models):
    return {
        f"{name}.{k}": v.clone() for name, m in models.items() for k, v in m.denoiser.state_dict().items()
    }


def reopens(product, cond, folder):
    """The product saved, opened by a fresh process, and four samples that it draws there."""
    product.save_pretrained(folder / "model")
    torch.save(cond, folder / "cond.pt")
    paths = [str(folder / name) for name in ("model", "cond.pt", "x.pt")]
    subprocess.run([sys.executable, "-c", REOPEN, *paths], check=True)
    return torch.load(folder / "x.pt", weights_only=True)


def products_sample(product, cond, still=False):
    """A product samples at the cost that its samplings promise."""
    for steps, sampling in product.samplings.items():
        networks = product.networks
        with count_calls(product.denoiser, *networks.values()) as calls:
            x = product.sample(4, cond, steps=steps, seed=1)
        assert calls() == sampling.nfe(product.denoiser, product.conditional, networks)
        assert x.shape == (4, *product.shape) and torch.isfinite(x).all()
        assert torch.equal(x, product.sample(4, cond, steps=steps, seed=1))
        assert still or not torch.equal(x, product.sample(4, cond, steps=steps, seed=2))


def operation_keeps_its_contract(kind, contract, folder):
    """All of it for one class; :data:`CHECKS` calls it for a slug."""
    operation, models, work = setting(kind, contract)
    before, state = weights(models), torch.get_rng_state()
    product = operation.apply(models, work)
    assert torch.equal(state, torch.get_rng_state()), "it drew from torch's global state"
    after = weights(models)
    assert all(torch.equal(v, after[k]) for k, v in before.items()), "it changed a model that it was given"
    cond = conditions(product, work, 4)
    products_sample(product, cond, contract.still)
    x = product.sample(4, cond, seed=3)
    assert torch.equal(x, reopens(product, cond, folder)), "a fresh process samples other bits"
    assert load(folder / "model").samplings == product.samplings
    again, models, work = setting(kind, contract)
    torch.manual_seed(5)
    assert torch.equal(x, again.apply(models, work).sample(4, cond, seed=3)), "it does not repeat itself"


def check_its_product_and_its_repeats(slug, runs, tmp_path):
    operation_keeps_its_contract(find(slug), load_check(slug).CONTRACT, tmp_path)


def check_its_record_is_true(slug, runs, tmp_path):
    kind, row, contract = find(slug), get_system(slug), load_check(slug).CONTRACT
    assert (row.kind, row.needs, row.worlds) == (kind.kind, kind.needs, kind.worlds)
    operation, models, work = setting(kind, contract)
    for need in ("teacher", "student"):
        less = {k: v for k, v in models.items() if k != need}
        if operation.requires(need):
            with pytest.raises((StillhouseError, KeyError)):
                operation.apply(less, work)
        else:
            operation.apply(less, work)


def check_its_description_makes_it_again(slug, runs, tmp_path):
    made = find(slug)(**load_check(slug).CONTRACT.options)
    described = json.loads(json.dumps(made.describe()))
    assert described["method"] == slug and dataclasses.asdict(find(slug)(**described["options"])) == (
        dataclasses.asdict(made)
    )


CHECKS = [
    check_its_product_and_its_repeats,
    check_its_record_is_true,
    check_its_description_makes_it_again,
    check_it_refuses_bad_options_in_one_sentence,
]
