from dataclasses import asdict

import pytest
import torch

from stillhouse.core.conditions import pick
from stillhouse.core.denoiser import Denoiser, count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.models.routed import Routed, pooled, route
from stillhouse.opening import load
from stillhouse.parts.players.partition import embedding_signs, label_blocks
from stillhouse.systems.distribution.msd import MSD, Matching, ScoreMatching, restricted
from stillhouse.train.data import InfiniteData, NoData, Prompts, TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.mixture.layouts import make_mixture

WORLD = make_mixture()
SMALL = {"students": 2, "pairs": 8, "pair_steps": 2, "gan_weight": 0.1}


def teacher():
    return load(WORLD.network(Flow(), 0, width=16, depth=1), shape=(2,), classes=8)


def run(program, model, data, folder=None, stop=""):
    """The joined model of a program of three iterations a part; ``stop``: the part whose first run is
    interrupted after an iteration."""
    made = {}
    for part in program.parts({"teacher": model}, data):
        student = made[part.student].denoiser.copy() if part.student else None
        if student is None and part.network:
            student = WORLD.network(Flow(), 0, **{"width": 16, "depth": 1, **part.network})

        def halt(trainer, step, name=part.name):
            trainer.stopping = name == stop and step == 0

        out = folder / part.name if folder else None
        recipe = Recipe(steps=3, batch=8, save_every=1, lr=dict(part.lr))
        how = {"student": student, "out": out, "quiet": True, "on_step": halt}
        trainer = Trainer(part.method, model, part.data or data, recipe, **how)
        made[part.name] = trainer.fit(resume=bool(out and out.is_dir()))
    return program.join({"teacher": model}, made), made


def experts(k=2, width=8):
    by = label_blocks(8, k)
    nets = [build_model({"name": "mlp", "width": width, "depth": 1, "classes": 8}, seed) for seed in range(k)]
    with torch.no_grad():
        for net in nets:
            for i, p in enumerate(net.parameters()):
                p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    return nets, by


# -- the partition ---------------------------------------------------------------------------------


def test_labels_fall_into_consecutive_blocks_that_cover_them_all():
    part = route(label_blocks(8, 4), torch.arange(8), 8)
    assert part.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    uneven = route(label_blocks(7, 3), torch.arange(7), 7)
    assert uneven.unique().tolist() == [0, 1, 2] and bool((uneven.diff() >= 0).all())
    assert route(label_blocks(8, 4), torch.full((3,), -1), 3).tolist() == [0, 0, 0]
    assert route(label_blocks(8, 4), None, 3).tolist() == [0, 0, 0]


def test_prompts_fall_into_the_quadrants_of_their_leading_components():
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[6.0, 3, 0], [6, -3, 0], [-6, 3, 0], [-6, -3, 0]])
    tokens = centres.repeat_interleave(5, 0)[:, None] + 0.1 * torch.randn(20, 4, 3, generator=g)
    by = embedding_signs(tokens, 4)
    part = route(by, tokens, 20).reshape(4, 5)
    assert bool((part == part[:, :1]).all()) and sorted(part[:, 0].tolist()) == [0, 1, 2, 3]
    assert torch.equal(route(by, pick(tokens, torch.tensor([7])), 1), part.flatten()[7:8])


def test_padding_is_no_part_of_a_prompt():
    tokens = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False, False]] * 3)
    assert torch.allclose(pooled({"tokens": tokens, "mask": mask}), tokens[:, :2].mean(1))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: label_blocks(3, 4), "parted into 2 to 3 blocks"),
        (lambda: embedding_signs(torch.randn(9, 2, 5), 3), "2, 4, 8"),
        (lambda: embedding_signs(torch.randn(3, 2, 5), 4), "too few"),
        (lambda: route({"name": "dice"}, torch.arange(3), 3), "no partition of conditions"),
        (lambda: route(label_blocks(8, 2), torch.randn(3, 2, 5), 3), "class labels"),
    ],
)
def test_bad_partitions_are_refused_in_one_sentence(make, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        make()


@pytest.mark.parametrize("k", [0, 1])
def test_each_kind_of_data_keeps_its_part_alone(k):
    by, labels = label_blocks(8, 2), torch.arange(40) % 8
    whole = [
        NoData((2,), 8),
        InfiniteData(WORLD, labelled=True),
        TensorData(labels[:, None].repeat(1, 2).float(), labels, 8),
    ]
    for data in whole:
        own = restricted(data, by, k)
        x, cond = own.rows(0, Draws(64, 0, "rows"))
        assert set(cond.tolist()) == set(range(4 * k, 4 * k + 4)) == set(own.examples(8).tolist())
        assert own.classes == 8 and (x is None) == isinstance(data, NoData)
    assert bool((x[:, 0] == cond).all())
    tokens = torch.randn(16, 3, 5, generator=torch.Generator().manual_seed(1))
    by = embedding_signs(tokens, 2)
    own = restricted(Prompts((2,), tokens), by, k)
    assert 0 < len(own.bank) < 16 and set(route(by, own.bank, len(own.bank)).tolist()) == {k}


# -- the joined network ----------------------------------------------------------------------------


def test_each_row_is_computed_by_its_own_expert_alone():
    nets, by = experts()
    routed, x, t = Routed(nets, by), torch.randn(6, 2), torch.rand(6)
    labels, rows = torch.tensor([0, 5, 3, -1, 7, 2]), []
    for net in nets:
        net.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    out = routed(x, t, labels)
    assert sorted(rows) == [2, 4]
    for i, k in enumerate([0, 1, 0, 0, 1, 0]):
        assert torch.allclose(out[i : i + 1], nets[k](x[i : i + 1], t[i : i + 1], labels[i : i + 1]))
    assert torch.allclose(routed(x, t, None), nets[0](x, t, None))


def test_its_configuration_builds_it_again():
    nets, by = experts(3)
    routed = Routed(nets, by)
    again = build_model(routed.config)
    again.load_state_dict(routed.state_dict())
    x, t, labels = torch.randn(8, 2), torch.rand(8), torch.arange(8)
    assert again.config == routed.config and torch.equal(again(x, t, labels), routed(x, t, labels))


# -- the program -----------------------------------------------------------------------------------


def test_its_parts_are_the_stages_of_each_part():
    data = InfiniteData(WORLD, labelled=True)
    full = MSD(**SMALL, width=8).parts({"teacher": teacher()}, data)
    assert [p.name for p in full] == ["scores0", "matching0", "critic0", "scores1", "matching1", "critic1"]
    assert [p.student for p in full] == ["", "scores0", "matching0", "", "scores1", "matching1"]
    assert [dict(p.network) for p in full[:2]] == [{"width": 8}, {}]
    assert isinstance(full[0].method, ScoreMatching) and isinstance(full[1].method, Matching)
    same = MSD(**{**SMALL, "gan_weight": 0.0}).parts({"teacher": teacher()}, NoData((2,), 8))
    assert [(p.name, p.student) for p in same] == [("matching0", ""), ("matching1", "")]


def test_its_options_reach_the_stages_they_are_of():
    shared = {"first_time": 0.6, "guidance": 2.5, "pair_steps": 3}
    match = {**shared, "fake_per_student": 4, "critic_weight": 0.3}
    options = {**match, "students": 2, "pairs": 8, "regression_weight": 0.7, "gan_weight": 0.2}
    program = MSD(**options, width=8, critic_lr=2e-3)
    made = program.parts({"teacher": teacher()}, InfiniteData(WORLD, labelled=True))
    for number in range(2):
        scores, matching, critic = made[3 * number : 3 * number + 3]
        part = {"part": number}
        assert asdict(scores.method) == {**shared, **part, "pairs": 8}
        wanted = {**match, **part, "score_t_min": 0.02, "score_t_max": 0.98}
        alone = {"pairs": 0, "regression_weight": 0.0, "gan_weight": 0.2}
        paired = {"pairs": 8, "regression_weight": 0.7, "gan_weight": 0.0}
        assert asdict(matching.method) == {**wanted, **paired} and asdict(critic.method) == {
            **wanted,
            **alone,
        }
        assert dict(critic.lr) == {"student": 2e-3} and not matching.lr
        assert torch.equal(matching.method.everyone, torch.arange(8))
    few = MSD(pairs=0, width=8, students=2).parts({"teacher": teacher()}, NoData((2,), 8))
    assert few[0].method.pairs == 1  # noised samples there must be


def test_prompts_are_parted_and_all_of_them_give_pairs():
    tokens = torch.randn(16, 3, 5, generator=torch.Generator().manual_seed(1))
    for data in (Prompts((2,), tokens), TensorData(torch.zeros(16, 2), tokens)):
        first, second = MSD(students=2, gan_weight=0.0).parts({"teacher": teacher()}, data)
        assert torch.equal(first.method.everyone, tokens)
        own = [part.data.examples(8) for part in (first, second)]
        assert not any(bool((a == b).all()) for a in own[0] for b in own[1])


def test_turns_and_banks_of_the_stages():
    first = [Matching(fake_per_student=3).turns(i)[0] for i in range(4)]
    assert first == ["student", "fake", "fake", "student"]
    assert Matching(pairs=7).bank_size == 7 and Matching(pairs=7, regression_weight=0.0).bank_size == 0
    assert Matching().requires("data") is False and Matching(gan_weight=0.1).requires("data")
    assert Matching(first_time=0.6).samplings()[1].times == [0.6, 0.0]
    assert ScoreMatching(first_time=0.6, pairs=9).bank_size == 9


class Own(torch.nn.Linear):
    """A network of a user's."""


def test_students_that_could_not_be_joined_are_refused():
    with pytest.raises(StillhouseError, match="networks of your own"):
        MSD().suits(load(Denoiser(Own(2, 2), Flow()), shape=(2,)))
    MSD().suits(load(WORLD.exact(Flow()), shape=(2,)))
    model = teacher()
    MSD().suits(model)
    model.pipeline = object()
    with pytest.raises(StillhouseError, match="Diffusers pipeline"):
        MSD().suits(model)
    with pytest.raises(StillhouseError, match="can't be parted by their conditions"):
        restricted(NoData((2,)), label_blocks(8, 2), 0)


def test_pairs_are_of_all_conditions_and_matching_of_its_own():
    model = teacher()
    part = MSD(**{**SMALL, "gan_weight": 0.0, "pairs": 64}).parts({"teacher": model}, NoData((2,), 8))[1]
    Trainer(part.method, model, part.data, Recipe(batch=8), quiet=True)
    rows = part.method.bank_rows(Draws(64, 0, "bank"), part.data.examples(64))
    assert set(rows["cond"].tolist()) == set(range(8))
    assert set(part.data.rows(0, Draws(64, 0, "data"))[1].tolist()) == {4, 5, 6, 7}


def test_score_matching_is_at_rest_at_the_teacher_itself():
    model = teacher()
    method = ScoreMatching(pairs=16, pair_steps=2)
    trainer = Trainer(method, model, NoData((2,), 8), Recipe(batch=8), quiet=True)
    trainer.feed.open_bank(0)
    batch = trainer.feed.batch(0, 0, ("student",))
    assert method.loss("student", batch).item() < 1e-9
    with torch.no_grad():
        for p in method.student.parameters():
            p += 0.1
    assert method.loss("student", batch).item() > 1e-3


@pytest.mark.parametrize("stop", ["scores0", "matching0", "critic1"])
def test_a_stop_anywhere_changes_no_bit(stop, tmp_path):
    data, labels = InfiniteData(WORLD, labelled=True), torch.arange(8)
    whole, _ = run(MSD(**SMALL, width=8), teacher(), data, tmp_path / "a")
    with pytest.raises(StillhouseError, match="Stopped after step"):
        run(MSD(**SMALL, width=8), teacher(), data, tmp_path / "b", stop)
    again, _ = run(MSD(**SMALL, width=8), teacher(), data, tmp_path / "b")
    assert torch.equal(whole.sample(8, labels, seed=1), again.sample(8, labels, seed=1))


def test_the_joined_model_is_one_call_saves_and_opens(tmp_path):
    model = teacher()
    joined, made = run(MSD(**SMALL, width=8), model, InfiniteData(WORLD, labelled=True))
    labels = torch.arange(8)
    with count_calls(joined.denoiser) as calls:
        x = joined.sample(8, labels, seed=1)
    assert calls() == 1 and list(joined.samplings) == [1]
    own = made["critic1"].sample(8, labels, seed=1)
    assert torch.allclose(x[4:], own[4:], atol=1e-6)
    joined.save_pretrained(tmp_path / "m")
    assert torch.equal(load(tmp_path / "m").sample(8, labels, seed=1), x)


def test_data_without_conditions_is_refused():
    with pytest.raises(StillhouseError, match="Only conditional data"):
        MSD().parts({"teacher": teacher()}, NoData((2,)))
