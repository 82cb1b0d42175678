"""The contract between a method and the harness: what a method may override and what it is handed.

A method imports this package, torch and NumPy; it never imports the harness.
"""

from methods.contract.choices import LossKind, Need, Proposals, Scope, ViewKind
from methods.contract.data import DatasetFacts, Draw, ImageFacts, PasteRule, Pool, concatenated, uniform_over_categories
from methods.contract.losses import Attribution, LastLayer, Loss, LossTable
from methods.contract.method import Method, Start
from methods.contract.step import Instances, Selection, Step

__all__ = [
    "Attribution",
    "DatasetFacts",
    "Draw",
    "ImageFacts",
    "Instances",
    "LastLayer",
    "Loss",
    "LossKind",
    "LossTable",
    "Method",
    "Need",
    "PasteRule",
    "Pool",
    "Proposals",
    "Scope",
    "Selection",
    "Start",
    "Step",
    "ViewKind",
    "concatenated",
    "uniform_over_categories",
]
