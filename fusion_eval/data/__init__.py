"""Where samples come from, one file a family of sources."""

from fusion_eval.data.arrays import Arrays
from fusion_eval.data.chat import Chat
from fusion_eval.data.completion import CompletionPrompt
from fusion_eval.data.corruption import Corruption
from fusion_eval.data.embedded import Embedded
from fusion_eval.data.folder import ImageFolder
from fusion_eval.data.huggingface import HuggingFace
from fusion_eval.data.language_modelling import TextWindows
from fusion_eval.data.mapstyle import MapStyle
from fusion_eval.data.multiple_choice import ChoicePrompts
from fusion_eval.data.nyuv2 import NYUv2
from fusion_eval.data.prepared import DataCache
from fusion_eval.data.processor import CheckpointProcessor
from fusion_eval.data.retrieval import Search
from fusion_eval.data.source import DataSource, Samples, TensorSamples
from fusion_eval.data.table import Table
from fusion_eval.data.text import Tokenized
from fusion_eval.data.texts import TokenizedTexts
from fusion_eval.data.transform import ImageTransform

__all__ = [
    "Arrays",
    "Chat",
    "CheckpointProcessor",
    "ChoicePrompts",
    "CompletionPrompt",
    "Corruption",
    "DataCache",
    "DataSource",
    "Embedded",
    "HuggingFace",
    "ImageFolder",
    "ImageTransform",
    "MapStyle",
    "NYUv2",
    "Samples",
    "Search",
    "Table",
    "TensorSamples",
    "TextWindows",
    "Tokenized",
    "TokenizedTexts",
]
