"""Tasks of causal language models: perplexity of texts, multiple choice, generation."""

from fusion_eval.tasks.causal.generation import Generation
from fusion_eval.tasks.causal.metrics import BitsPerByte, ChoiceAccuracy, GenerationMatch, Perplexity
from fusion_eval.tasks.causal.multiple_choice import MultipleChoice
from fusion_eval.tasks.causal.perplexity import LanguageModelling

__all__ = [
    "BitsPerByte",
    "ChoiceAccuracy",
    "Generation",
    "GenerationMatch",
    "LanguageModelling",
    "MultipleChoice",
    "Perplexity",
]
