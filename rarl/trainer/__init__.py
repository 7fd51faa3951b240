"""Trainers on those of TRL. Whatever touches a private method of TRL is in this folder;
`tests/rarl/trainer/test_trl_contract.py` fails when one of those methods moves.
"""

from gor_head.versions import check_versions

check_versions("trl", "transformers", "peft", "accelerate")

from rarl.shared_prefix.config import SharedPrefixConfig
from rarl.trainer.config import RARLConfig
from rarl.trainer.expected import ExpectedErrorTrainer
from rarl.trainer.rarl import RARLTrainer
from rarl.trainer.sharing import SharedPrefixTrainer

__all__ = ["ExpectedErrorTrainer", "RARLConfig", "RARLTrainer", "SharedPrefixConfig", "SharedPrefixTrainer"]
