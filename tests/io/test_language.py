"""Masked language models of Transformers: in, out, and asked by our samplers."""

import json

import pytest
import torch

import stillhouse
from stillhouse.core.errors import StillhouseError
from stillhouse.io.language import NEVER
from stillhouse.metrics.language import held_out_bits

transformers = pytest.importorskip("transformers")
WORDS = "the a cat dog mat rug sat ran on under .".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def word_tokenizer(frame: bool = True):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if frame:
        inner.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def save_bert(folder, frame: bool = True, **options):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL + WORDS) + 2,
        max_position_embeddings=24,
        initializer_range=0.5,
        **SIZES,
        **options,
    )
    net = transformers.BertForMaskedLM(config).eval()
    net.save_pretrained(folder)
    word_tokenizer(frame).save_pretrained(folder)
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bert")
    with torch.random.fork_rng():
        save_bert(place)
    return place


@pytest.fixture(scope="module")
def model(folder):
    return stillhouse.load(folder)


def test_it_says_what_the_network_says_at_gaps(folder, model):
    assert model.form == "text" and model.shape == (22,) and model.denoiser.process.vocab == 18
    state = model.gaps(1, ["the cat _ on the _ ."])
    assert state[0, :8].tolist() == [5, 7, 18, 13, 5, 18, 15, 18]
    pred = model.denoiser(state, torch.ones(1)).log_probs[0]
    net = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = torch.cat([torch.tensor([2]), state[0].masked_fill(state[0] == 18, 4), torch.tensor([3])])[None]
    logits = net(input_ids=ids).logits[0, 1:-1]
    logits[:, [0, 1, 2, 3, 4, 16, 17]] = NEVER  # special tokens, and those that the tokenizer lacks
    assert pred[2].allclose(logits[2].log_softmax(-1), atol=1e-5)
    assert pred[0].argmax() == 5 and pred[0].max() == 0  # what is visible is itself


def test_prompts_are_kept_and_gaps_filled_with_real_words(model):
    tokens = model.sample(6, ["the cat _ on the _ .", "a dog"], steps=4)
    texts = [model.tokenizer.decode(row) for row in tokens.tolist()]
    assert all(
        text.split()[:2] == ["the", "cat"] and text.split()[3:5] == ["on", "the"] for text in texts[::2]
    )
    assert all(text.split()[:2] == ["a", "dog"] for text in texts[1::2])
    assert {word for text in texts for word in text.split()} <= set(WORDS) and int(tokens.max()) < 16


def test_what_a_prompt_may_not_hold(model):
    with pytest.raises(StillhouseError, match="no token for 'whale' in 'the whale _'"):
        model.sample(1, "the whale _")
    with pytest.raises(StillhouseError, match="has 23 tokens, the model writes 22"):
        model.sample(1, "the " * 23)


@pytest.mark.parametrize("frame", [True, False])
def test_a_student_opens_in_transformers_with_the_same_logits(tmp_path, frame):
    with torch.random.fork_rng():
        save_bert(tmp_path / "teacher", frame)
    text = tmp_path / "texts.txt"
    text.write_text("the cat sat on the mat . a dog ran under the rug . " * 20)
    teacher = stillhouse.load(tmp_path / "teacher", length=13)
    student = stillhouse.distill(
        teacher,
        "sdtt",
        data=text,
        teacher_steps=8,
        rounds=2,
        iterations=3,
        batch=4,
        quiet=True,
        ema=0.5,
        out=tmp_path / "run",
    )
    assert (tmp_path / "run/model/config.json").is_file()
    saved = student.save_pretrained(tmp_path / "student")
    again = stillhouse.load(saved)
    net = transformers.AutoModelForMaskedLM.from_pretrained(saved).eval()
    assert transformers.AutoTokenizer.from_pretrained(saved).mask_token == "[MASK]"
    ids = torch.tensor([[2, 5, 4, 13, 3]])
    assert torch.equal(net(input_ids=ids).logits, student.denoiser.net.eval()(input_ids=ids).logits)
    assert not torch.equal(
        net(input_ids=ids).logits, teacher.denoiser.net(input_ids=ids).logits
    )  # it has learned
    assert (
        again.shape == (13,)
        and list(again.samplings) == list(student.samplings)
        and again.info["method"] == "sdtt"
    )
    assert torch.equal(again.sample(3, "the _", seed=1), student.sample(3, "the _", seed=1))
    assert all(str(tmp_path) not in file.read_text() for file in saved.glob("*.json"))
    before = (saved / "model.safetensors").read_bytes()
    assert (student.save_pretrained(saved) / "model.safetensors").read_bytes() == before  # over itself
    assert held_out_bits(again, torch.full((4, 13), 5), rounds=1) > 0


def test_shared_weights_stay_shared_in_the_slow_copy(tmp_path):
    with torch.random.fork_rng():
        save_bert(tmp_path)
    from stillhouse.train.ema import EMA

    source = stillhouse.load(tmp_path).denoiser
    slow = source.copy()
    name = "bert.embeddings.word_embeddings.weight"
    before = slow.net.state_dict()[name].clone()
    with torch.no_grad():
        source.net.state_dict()[name].add_(1)
    EMA(slow, source, 0.75).follow(0)
    assert (
        slow.net.state_dict()[name].allclose(before + 0.25)
        and source.net.cls.predictions.decoder.weight is source.net.get_input_embeddings().weight
    )


def test_another_family_is_read_alike(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.DistilBertConfig(
            vocab_size=16, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=24
        )
        transformers.DistilBertForMaskedLM(config).save_pretrained(tmp_path)
        word_tokenizer().save_pretrained(tmp_path)
    assert (
        stillhouse.load(tmp_path, length=5).sample(2, "the _ .", steps=2)[:, [0, 2]].tolist() == [[5, 15]] * 2
    )


def test_foreign_and_unsafe_folders_are_refused(tmp_path, folder):
    def copied(name, change=None, without=()):
        place = tmp_path / name
        place.mkdir()
        for file in folder.iterdir():
            if file.name not in without:
                (place / file.name).write_bytes(file.read_bytes())
        if change:
            config = json.loads((place / "config.json").read_text())
            (place / "config.json").write_text(json.dumps(config | change))
        return place

    for place, what in (
        (copied("code", {"auto_map": {"AutoModelForMaskedLM": "theirs.Net"}}), "code of its own"),
        (
            copied("pickle", without=["model.safetensors"]),
            r"has no \*.safetensors \(a pickle is not opened\)",
        ),
        (copied("mute", without=["tokenizer.json", "tokenizer_config.json"]), "has no tokenizer"),
    ):
        with pytest.raises(StillhouseError, match=what):
            stillhouse.load(place)
    with pytest.raises(StillhouseError, match="1 to 22 tokens, not 23"):
        stillhouse.load(folder, length=23)
    with pytest.raises(StillhouseError, match="no option but the length"):
        stillhouse.load(folder, height=8)
