"""What ``stillhouse new`` writes: per kind a minimal system that works, its check, an oracle of its
losses. ``SLUG``, ``FAMILY`` and ``NAME`` stand for its names."""

from __future__ import annotations

METHOD = '''"""SLUG: in one line, what it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.recipe import Optim


@dataclass
class NAME(Method):
    """Title of the Paper. Authors, year (arXiv 0000.00000).

    The idea in a few sentences, with the numbers of the equations.
    """

    steps: int = option(4, "calls of the student per sample", low=1)

    kind = "method"
    worlds = ("mixture",)
    needs = ("teacher",)  # what a run must be given; "data unless OPTION=VALUE" where an option decides
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3)}

    def samplings(self) -> dict[int, Sampling]:
        return {self.steps: Sampling.steps(self.process, self.steps, solver="ddim")}

    def student_loss(self, batch: Batch) -> Tensor:
        # the mathematics goes here; this example denoises what the teacher makes of pure noise in one call
        t = batch.times(self.process.t_min, 1.0)
        one = t.new_ones(t.shape)
        x = self.teacher(batch.noise() * self.process.prior_std, one, batch.cond).x0.detach()
        return denoising_loss(self.student, x, t, batch.noise(), batch.cond)
'''

OPERATION = '''"""SLUG: in one line, what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stillhouse.model import Model
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.base import Operation, Work
from stillhouse.train.option import option


@dataclass
class NAME(Operation):
    """Title of the Paper. Authors, year (arXiv 0000.00000).

    The idea in a few sentences, with the numbers of the equations.
    """

    steps: int = option(4, "calls of the model per sample", low=1)

    kind = "operation"
    worlds = ("mixture",)
    needs = ("teacher",)  # what it must be given; "data unless OPTION=VALUE" where an option decides

    def apply(self, models: Mapping[str, Model], work: Work) -> Model:
        # the mathematics goes here; this example gives the teacher a walk of few steps
        teacher = models["teacher"]
        walk = Sampling.steps(teacher.denoiser.process, self.steps, solver="ddim")
        return replace(teacher, samplings={self.steps: walk}, free_steps=False)
'''

PROGRAM = '''"""SLUG: in one line, what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from stillhouse.model import Model
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.base import Part, Program
from stillhouse.train.batch import Batch
from stillhouse.train.data import Data
from stillhouse.train.method import Method
from stillhouse.train.option import option


@dataclass
class _Imitation(Method):
    """The run of one part: the student repeats the teacher's prediction."""

    steps: int = option(2, "calls of the student per sample", low=1)
    needs = ("teacher",)

    def samplings(self) -> dict[int, Sampling]:
        return {self.steps: Sampling.steps(self.process, self.steps, solver="ddim")}

    def student_loss(self, batch: Batch) -> Tensor:
        t, x = batch.times(self.process.t_min, 1.0), batch.noise()
        target = self.teacher(x, t, batch.cond).x0.detach()
        return (self.student(x, t, batch.cond).x0 - target).square().flatten(1).mean(1).mean()


@dataclass
class NAME(Program):
    """Title of the Paper. Authors, year (arXiv 0000.00000).

    The idea in a few sentences: which runs there are, and how their models become one.
    """

    steps: int = option(2, "calls of the last part's student per sample", low=1)

    kind = "program"
    worlds = ("mixture",)
    needs = ("teacher",)  # what its parts must be given

    def parts(self, models: Mapping[str, Model], data: Data) -> list[Part]:
        # which runs there are; this example makes a student, and a faster one from it
        return [
            Part("first", _Imitation(steps=2 * self.steps), share=0.5),
            Part("second", _Imitation(steps=self.steps), share=0.5, student="first"),
        ]

    def join(self, models: Mapping[str, Model], made: Mapping[str, Model]) -> Model:
        # how their models become one; here the last one is it
        return made["second"]
'''

ESTIMATOR = '''"""SLUG: in one line, what it does."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted, validate_data


class NAME(ClassifierMixin, BaseEstimator):
    """Title of the Paper. Authors, year (arXiv 0000.00000).

    The idea in a few sentences, with the numbers of the equations. ``estimator``: of teacher and student.
    """

    kind = "estimator"
    worlds = ("tables",)
    needs = ("labels",)

    def __init__(self, estimator: Any = None):
        self.estimator = estimator

    def fit(self, X: Any, y: Any) -> NAME:
        X, y = validate_data(self, X, y)
        # the mathematics goes here; this example's student learns from the teacher's labels
        base = LogisticRegression() if self.estimator is None else self.estimator
        self.teacher_ = clone(base).fit(X, y)
        given = self.teacher_.predict(X)
        self.student_ = clone(base).fit(X, given if len(np.unique(given)) > 1 else y)
        self.classes_, self.n_features_in_ = self.teacher_.classes_, self.teacher_.n_features_in_
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The student's labels of ``X``."""
        check_is_fitted(self)
        labels: np.ndarray = self.student_.predict(validate_data(self, X, reset=False))
        return labels
'''

SYSTEMS = {"method": METHOD, "operation": OPERATION, "program": PROGRAM, "estimator": ESTIMATOR}

_CHECK = '''"""SLUG: in one line, what the check claims."""

from __future__ import annotations

IMPORTS

WORLD = "WORLDNAME"
ABLATIONS = {"idea": "What is taken away, in one sentence."}
CONTRACT = Contract(SETTING)  # a setting of seconds, for tests/systems/test_contract.py


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The claim of the paper goes here: measured in seconds, with a margin, and failing without the key idea.
    This example claims that the product works at all."""
BODY
'''

_WHOLE = """    world = get_world(WORLD)
    network = world.network(Flow(), seed, width=16, depth=1)
    teacher = load(network, shape=world.shape, classes=world.classes)
PRODUCT
    x = student.sample(256, seed=seed)
    share = 0.0 if ablation else x.isfinite().float().mean().item()
    return [at_least("share of finite samples", share, 1.0)]"""


def _check(imports: str, world: str, setting: str, body: str) -> str:
    made = _CHECK.replace("IMPORTS", imports).replace("WORLDNAME", world).replace("SETTING", setting)
    return made.replace("BODY", body)


def _model_check(imports: str, product: str) -> str:
    lines = [
        "from stillhouse.checks.base import Claim, Contract, at_least",
        "from stillhouse.core.schedules import Flow",
        "from stillhouse.opening import load",
        *imports.splitlines(),
        "from stillhouse.worlds.base import get_world",
    ]
    ordered = "\n".join(sorted(lines, key=lambda line: line.split()[1]))
    return _check(ordered, "mixture", 'options={"steps": 2}', _WHOLE.replace("PRODUCT", product))


_RUN = """    recipe = Recipe(steps=20, batch=64, seed=seed)
    data = NoData(world.shape, world.classes)
"""
_TRAIN = """from stillhouse.systems.FAMILY.SLUG import NAME
from stillhouse.train.data import NoData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe"""

CHECKS = {
    "method": _model_check(
        _TRAIN, _RUN + "    student = Trainer(NAME(), teacher, data, recipe, quiet=True).fit()"
    ),
    "operation": _model_check(
        "from stillhouse.systems.FAMILY.SLUG import NAME\nfrom stillhouse.systems.base import Work\n"
        "from stillhouse.train.data import NoData",
        "    work = Work(NoData(world.shape, world.classes), seed, quiet=True)\n"
        '    student = NAME().apply({"teacher": teacher}, work)',
    ),
    "program": _model_check(
        "from stillhouse.model import Model\n" + _TRAIN,
        _RUN
        + """    models, made = {"teacher": teacher}, dict[str, Model]()
    for part in NAME().parts(models, data):
        start = made[part.student].denoiser.copy() if part.student else None
        made[part.name] = Trainer(part.method, teacher, data, recipe, student=start, quiet=True).fit()
    student = NAME().join(models, made)""",
    ),
    "estimator": _check(
        "import numpy as np\n\nfrom stillhouse.checks.base import Claim, Contract, at_least\n"
        "from stillhouse.systems.FAMILY.SLUG import NAME",
        "tables",
        "estimators=(NAME(),)",
        """    rng = np.random.default_rng(seed)
    X = rng.standard_normal((200, 3))
    y = (X[:, 0] > 0).astype(int)
    right = float((NAME().fit(X, y).predict(X) == y).mean())
    return [at_least("share of right labels", 0.0 if ablation else right, 0.9)]""",
    ),
}

_ORACLE = '''"""The losses of SLUG, written out from the paper."""

from __future__ import annotations

from torch import Tensor

from stillhouse.core.schedules import Cosine
IMPORTS


def student_loss(given: Given) -> Tensor:
    # the paper's equation goes here, from the tensors that the loss had and the streams that it draws from;
    # nothing of stillhouse.parts and nothing of the method
BODY


CASES = [CASES]
'''

ORACLES = {
    "method": _ORACLE.replace("IMPORTS", "from tests.systems.oracle import Case, Given")
    .replace(
        "BODY",
        """    own, first = given.draws("student"), given.process.t_min
    t, noise, eps = own.uniform(first, 1.0), own.normal(*given.shape), own.normal(*given.shape)
    x = given.teacher(given.process.sigma(given.at(1.0)[0]) * noise, given.at(1.0), given.cond).x0
    return given.denoising(given.student, x, t, eps)""",
    )
    .replace("[CASES]", '[Case("student", student_loss), Case("student", student_loss, Cosine(), "v")]'),
    "program": _ORACLE.replace(
        "IMPORTS",
        "from stillhouse.systems.FAMILY.SLUG import _Imitation\nfrom tests.systems.oracle import Case, Given",
    )
    .replace(
        "BODY",
        """    own = given.draws("student")
    t, x = own.uniform(given.process.t_min, 1.0), own.normal(*given.shape)
    target = given.teacher(x, t, given.cond).x0
    return (given.student(x, t, given.cond).x0 - target).square().mean()""",
    )
    .replace(
        "CASES = [CASES]",
        """CASES = [
    Case("student", student_loss, method=_Imitation),
    Case("student", student_loss, Cosine(), "v", method=_Imitation),
]""",
    ),
}


def paragraph(slug: str, family: str) -> str:
    """The skeleton of a system's section of its family's page.

    Arguments:
        slug: the system's name.
        family: the name of its folder.

    Returns:
        Markdown.
    """
    return (
        f"## {slug}\n\nWhat it does, when to take it and when not, and what its check measures. "
        f"[Its file](../stillhouse/systems/{family}/{slug}.py).\n"
    )
