"""What every training recipe shares: its arguments, its data, its policy, and what it leaves behind.

A recipe is a short script: [`parse`][rarl.recipe.arguments.parse], [`prepare_data`][rarl.recipe.data.prepare_data] and
[`load_policy`][rarl.recipe.policy.load_policy] inside [`setting_up`][rarl.recipe.run.setting_up], then
[`train`][rarl.recipe.run.train] and [`finish`][rarl.recipe.finish.finish].
"""

from rarl.recipe.arguments import RecipeArguments, parse
from rarl.recipe.data import Data, check_lengths, longest_reference, prepare_data
from rarl.recipe.finish import evaluate_run, finish, hub_repository
from rarl.recipe.policy import load_policy, load_processor, rollout_tokens, starting_adapter
from rarl.recipe.preferences import build_preferences
from rarl.recipe.run import setting_up, train

__all__ = [
    "Data",
    "RecipeArguments",
    "build_preferences",
    "check_lengths",
    "evaluate_run",
    "finish",
    "hub_repository",
    "load_policy",
    "load_processor",
    "longest_reference",
    "parse",
    "prepare_data",
    "rollout_tokens",
    "setting_up",
    "starting_adapter",
    "train",
]
