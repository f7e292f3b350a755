"""Scores of generated images: FID and its kin with any feature extractor, while training and afterwards."""

from ganfuse.engine.metrics.collapse_monitor import CollapseMonitor, discriminator_on_held_out
from ganfuse.engine.metrics.domain_evaluation import DomainEvaluator
from ganfuse.engine.metrics.evaluate_hook import BestScore, Evaluate
from ganfuse.engine.metrics.evaluation import Evaluator, extract_features
from ganfuse.engine.metrics.evaluation_log import read_evaluations
from ganfuse.engine.metrics.extractor import Extracted, Extractor, ModuleExtractor
from ganfuse.engine.metrics.extractor_choice import choose_extractor
from ganfuse.engine.metrics.fid import frechet_distance
from ganfuse.engine.metrics.inception_scores import inception_score
from ganfuse.engine.metrics.kid import kernel_distance
from ganfuse.engine.metrics.nearest_neighbors import density_coverage, precision_recall
from ganfuse.engine.metrics.scores import METRICS, compute_scores

__all__ = [
    "METRICS",
    "BestScore",
    "CollapseMonitor",
    "DomainEvaluator",
    "Evaluate",
    "Evaluator",
    "Extracted",
    "Extractor",
    "ModuleExtractor",
    "choose_extractor",
    "compute_scores",
    "density_coverage",
    "discriminator_on_held_out",
    "extract_features",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
    "read_evaluations",
]
