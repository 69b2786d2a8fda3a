"""Half of the labels are wrong: let a student unlearn them.

python examples/noisy_labels.py            # a minute on two CPU cores
python examples/noisy_labels.py --quick    # a few iterations, to see that it runs
"""

import sys

from stillhouse.classical.soft import SoftMLP
from stillhouse.systems.classical.label_noise_sd import NoisyLabelDistiller
from stillhouse.worlds.tables.world import Tables

QUICK = "--quick" in sys.argv

split = Tables("digits").split(train=100 if QUICK else 700, validation=200, noise=0.5)
network = SoftMLP(hidden=(128,), iterations=5 if QUICK else 600)
student = NoisyLabelDistiller(network, xi="validation", sweep=(0.5, 1.0, 1.6, 2.0))
student.fit(split.X, split.y, validation=(split.X_val, split.y_val))

teacher = (student.teacher_.predict(split.X_test) == split.y_test).mean()
print(
    f"right on new digits: teacher {teacher:.1%}, student {student.score(split.X_test, split.y_test):.1%} "
    f"(xi = {student.factors_[0]:g})"
)
