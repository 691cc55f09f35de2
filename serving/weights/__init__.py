"""Models from disk: a Hugging Face folder, a GGUF file, or a package that carries one."""

from serving.weights.loading import LoadedModel, load
from serving.weights.not_loaded import ModelNotLoaded
from serving.weights.tokenizer import ChatTemplateError, Tokenizer

__all__ = ["ChatTemplateError", "LoadedModel", "ModelNotLoaded", "Tokenizer", "load"]
