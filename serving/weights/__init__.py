"""Models from disk: a Hugging Face folder, a GGUF file, or a package that carries one."""

from serving.weights.embedder import Embedder, load_embedder
from serving.weights.loading import LoadedModel, load
from serving.weights.not_loaded import ModelNotLoaded
from serving.weights.tokenizer import ChatTemplateError, Tokenizer

__all__ = [
    "ChatTemplateError",
    "Embedder",
    "LoadedModel",
    "ModelNotLoaded",
    "Tokenizer",
    "load",
    "load_embedder",
]
