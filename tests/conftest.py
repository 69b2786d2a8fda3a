"""Before any test imports torch: its threads sleep while they wait, as under the command line."""

from stillhouse.cli import spin_less

spin_less()
